"""Normalize text: case folding, whole numbers, words, and the many ways to write one rating."""

from __future__ import annotations

import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from .cells import as_whole

# Ways to write one rating. A family counts only where one of its members is a label of the mapping.
FAMILIES = (
    ("match", "matches", "is a match", "a match", "matched", "rated as match"),
    (
        "does not match",
        "not a match",
        "no match",
        "not match",
        "non match",
        "doesnt match",
        "did not match",
        "is not a match",
        "not matched",
        "rated as does not match",
        "rated as not a match",
    ),
    (
        "partial match",
        "partially matches",
        "partially match",
        "partly matches",
        "a partial match",
        "rated as partial match",
    ),
    (
        "unknown",
        "unknown not able to determine",
        "unknown unable to determine",
        "not able to determine",
        "unable to determine",
        "cannot determine",
        "cannot be determined",
        "undetermined",
        "indeterminate",
        "not sure",
        "unsure",
        "uncertain",
        "rated as unknown",
    ),
)
ABSTENTIONS = (
    "unknown",
    "maybe",
    "unsure",
    "uncertain",
    "undetermined",
    "indeterminate",
    "unclear",
    "abstain",
    "not sure",
    "not able",
    "unable",
    "cannot",
    "dont know",
    "do not know",
    "not applicable",
    "n a",
)

_RECENT_LINES = 4096  # remembered while the lines of many prompts are read
_WHOLE_NUMBER = re.compile(r"([+-]?\d{1,18})(?:\.0*)?")


# Bullets, rules and table borders. A bullet stands before a letter: "- 5 kg" and "(-)" keep their minus.
_DECORATION = re.compile(r"^[^\S\n]*-\s+(?=[^\W\d_])|[-=~]{3,}", re.MULTILINE)
_WORD = "[0-9a-z\x80-\U0010ffff]+"  # of a casefolded text without what _KEPT removes
# A minus that is not a hyphen: before a number ("-5"), or after a word or alone ("HER2-", "nitrite -", "(-)").
_SIGN = r"[+<>=~$%?]|!(?==)|(?<=\w)#|(?<![\w-])-(?=\d)|(?<!-)-{1,2}(?![\w-])"
_SPLIT = re.compile(f"{_WORD}|{_SIGN}")
_SPLIT_WITH_DECIMALS = re.compile(rf"\d+(?:\.\d+)+|{_WORD}|{_SIGN}")


class _Kept(dict[int, str]):
    """For str.translate: what becomes of a character that is not ASCII, by its Unicode category (UAX #44).

    Letters, numbers and marks stay, symbols and the signs among the punctuation are words of their own, dashes are a
    minus, invisible characters go, and the rest separates words.
    """

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        if code < 128 or (kind[0] in "LNM" and not 0xFE00 <= code <= 0xFE0F):  # not the selectors of a glyph's variant
            kept = letter
        elif letter in "−‐‑–":
            kept = "-"
        elif kind in ("Sm", "Sc", "So") or letter in "‰٪؟†":
            kept = f" {letter} "
        else:
            kept = "" if kind in ("Cf", "Mn") else " "
        self[code] = kept
        return kept


_KEPT = _Kept()


def _tokenize(text: str, split: re.Pattern[str]) -> list[str]:
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_KEPT)
    if "-" in text or "=" in text or "~" in text:
        text = _DECORATION.sub(" ", text)
    return split.findall(text)


def fold(text: str) -> str:
    """Remove differences in case, spaces and punctuation, so that "Not a  match." equals "not a match".

    What carries meaning stays: signs ("HER2+", "HER2 -"), "?" and the marks of every script.
    """
    return " ".join(_tokenize(text.replace("'", "").replace("’", ""), _SPLIT))


def as_whole_number(raw: Any) -> int | None:
    """Convert 1, 1.0, "1", "1.0", Decimal and NumPy's numbers to 1; return None for all else, also for booleans."""
    if isinstance(raw, bool):
        return None
    if isinstance(raw, str):
        match = _WHOLE_NUMBER.fullmatch(raw.strip().replace("−", "-"))
        return int(match[1]) if match else None
    return as_whole(raw) if isinstance(raw, (numbers.Real, Decimal)) else None


def words(text: str) -> list[str]:
    """Return the words, numbers and signs of a text in lower case; "37.1" stays one number."""
    return _tokenize(text, _SPLIT_WITH_DECIMALS)


@dataclass(frozen=True)
class NumberedLines:
    """The lines of prompts as numbers: lines with the same words are one, with its words in `words`; 0 has none."""

    words: Sequence[tuple[str, ...]]
    of_prompt: Sequence[Sequence[int]]


def number_lines(prompts: Iterable[str]) -> NumberedLines:
    """Tokenize each line once; equal words and lines are kept once, so that a million lines take little memory."""
    numbers: dict[tuple[str, ...], int] = {(): 0}
    known: dict[str, str] = {}

    @lru_cache(_RECENT_LINES)  # the task and common lines are in every prompt
    def number(line: str) -> int:
        found = words(line)
        own = tuple(map(known.setdefault, found, found))
        return numbers.setdefault(own, len(numbers))

    of_prompt = [tuple(map(number, prompt.splitlines())) for prompt in prompts]
    return NumberedLines(list(numbers), of_prompt)


def specific_numbers(of_prompt: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the numbers of the lines specific to each prompt, as `specific_lines`."""
    filled = [[number for number in own if number] for own in of_prompt]
    distinct = set(map(tuple, filled))
    frequency = Counter(number for own in distinct for number in set(own))
    common = {number for number, count in frequency.items() if count > len(distinct) / 2}
    return [[number for number in own if number not in common] or own for own in filled]


def specific_lines(prompts: Sequence[str]) -> list[list[str]]:
    """Return the lines of each prompt without those that more than half of the prompts contain (task, rating schema).

    A prompt that has no other lines keeps them all. Repeated prompts count once.
    """
    of_prompt = number_lines(prompts).of_prompt
    kept = map(set, specific_numbers(of_prompt))
    return [
        [line for line, number in zip(prompt.splitlines(), numbers, strict=True) if number in own]
        for prompt, numbers, own in zip(prompts, of_prompt, kept, strict=True)
    ]
