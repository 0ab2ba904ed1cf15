"""Tie each row of a review queue to its record, so that what a spreadsheet did to it is mended or found.

A spreadsheet reads "=x" and "-x" as formulas, "0010" as 10, "1-2" as a date and 20240101123456789 as 2.02E+16. Such
cells get an apostrophe before them. The key of a row is a digest of each of its cells: a cell that comes back is the
queued one only if its digest is in the key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from ..ratings.cells import is_blank_text
from ..ratings.columns import folded

KEY = "Review_Key"
_DIGITS = 8  # hexadecimal digits of a cell's digest
_MONTHS = r"(?:jan|f[eé]b|m[aä]r|avr|apr|ma[iy]|jui|jun|jul|a[ou][ûg]|sep|o[ck]t|nov|d[eé][cz])"
_CONVERTED = re.compile(
    rf"""[=+\-@'\t\r\n] .*                                 # a formula; an apostrophe that is the cell's own
    | (?! 0$ | [1-9]\d{{0,14}}$ ) [\d\s.,:/()%€$£+e-]* \d [\d\s.,:/()%€$£+e-]*   # a number or date, not a plain number
    | (?= .{{0,20}}$ ) (?= .*\d ) .* {_MONTHS} .*          # a date with a month: "MARCH1", "2 Sep"
    | true | false | wahr | falsch | vrai | faux""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def protected(text: str) -> str:
    """A cell that no spreadsheet converts."""
    return f"'{text}" if _CONVERTED.fullmatch(text) else text


def row_key(cells: Mapping[str, str]) -> str:
    """The key of a row with these cells, by column. It begins with a letter, so that it is not a number either."""
    return "k" + "".join(_digest(column, text) for column, text in cells.items())


def restored(key: str, column: str, text: str) -> str | None:
    """The cell as it was queued, or None if this text does not come from it."""
    digests = {key[at : at + _DIGITS] for at in range(1, len(key), _DIGITS)}
    return next((each for each in candidates(text) if _digest(column, each) in digests), None)


def candidates(text: str) -> Iterator[str]:
    """The texts of which a spreadsheet may have made this one, the text itself first."""
    for bare in (text, text.removeprefix("'"), f"'{text}"):
        for decoded in (bare, *_decoded_again(bare)):
            lines = re.sub(r"\r\n?", "\n", decoded)
            yield from (decoded, lines, lines.replace("\n", "\r\n"), lines.replace("\n", "\r"))


def is_damaged(text: str) -> bool:
    """True for a cell that cannot be a record: blank, a spreadsheet's error, or UTF-8 read as Windows-1252."""
    return is_blank_text(text) or any(True for _ in _decoded_again(text))


def _decoded_again(text: str) -> Iterator[str]:
    """The text if it was UTF-8 and read as Windows-1252 or Mac Roman: "fiÃ¨vre" is "fièvre"."""
    for encoding in ("cp1252", "mac_roman") if not text.isascii() else ():
        with suppress(UnicodeError):
            yield b"".join(_byte(letter, encoding) for letter in text).decode("utf-8")


def _byte(letter: str, encoding: str) -> bytes:
    """Windows reads the five bytes that Windows-1252 leaves undefined as control characters."""
    return letter.encode("latin-1" if 0x80 <= ord(letter) < 0xA0 else encoding)


def _digest(column: str, text: str) -> str:
    return hashlib.sha256(f"{folded(column)}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
