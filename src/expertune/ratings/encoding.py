"""Find the encoding of a text file: UTF-8, UTF-16 or, with a note, Windows-1252."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError

_CHUNK = 1 << 16  # bytes decoded at a time


@dataclass(frozen=True)
class Decoding:
    """Result of decoding a whole file: the lines (from 1) of the first invalid byte and of the first NUL, if any."""

    invalid_line: int | None = None
    nul_line: int | None = None
    blank: bool = True


def _decode(path: Path, encoding: str) -> Decoding:
    """Decode the file in chunks, up to the first invalid byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, nul_line, blank, more = 1, None, True, True
    with open(path, "rb") as file:
        while more:
            chunk = file.read(_CHUNK)
            more = bool(chunk)
            try:
                text = decoder.decode(chunk, final=not more)
            except UnicodeDecodeError as error:
                return Decoding(invalid_line=line + error.object.count(b"\n", 0, error.start))
            if nul_line is None and "\0" in text:
                nul_line = line + text.count("\n", 0, text.index("\0"))
            line += text.count("\n")
            blank = blank and not text.strip()
    return Decoding(nul_line=nul_line, blank=blank)


def find_encoding(path: Path) -> tuple[str, Decoding, tuple[str, ...]]:
    """The encoding under which the whole file can be decoded, and a note where it is not UTF-8."""
    with open(path, "rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        decoding = _decode(path, "utf-16")
        if decoding.invalid_line:
            raise DatasetError(f"{path}: broken UTF-16; save the file as UTF-8")
        return "utf-16", decoding, (f"{path}: read as UTF-16",)
    decoding = _decode(path, "utf-8-sig")
    if not decoding.invalid_line:
        return "utf-8-sig", decoding, ()
    note = f"{path}: not UTF-8 (line {decoding.invalid_line}); read as Windows-1252, check the accents"
    # five bytes are undefined in Windows-1252; Latin-1 defines every byte
    encoding, decoding = "cp1252", _decode(path, "cp1252")
    if decoding.invalid_line:
        encoding, decoding = "latin-1", _decode(path, "latin-1")
    return encoding, decoding, (note,)
