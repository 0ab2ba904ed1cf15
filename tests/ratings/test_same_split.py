"""The duplicates and the split of the example visits are those of the code before it was made fast, bit for bit.

A faster way to compare must not move a record to another part: the figures of earlier runs would no longer compare.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from expertune.ratings.near_duplicates import Duplicates, find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, make_scale
from expertune.ratings.schema import Rating
from expertune.ratings.split import split

EXAMPLES = Path(__file__).parents[2] / "examples"
VISITS = read_ratings(EXAMPLES / "formatted_dataset.csv", make_scale(DEFAULT_MAPPING))


def altered(text: str, draw: random.Random) -> str:
    """The text with one to three words shortened, lengthened or replaced."""
    words = text.split(" ")
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(words))
        words[at] = draw.choice((words[at][1:], words[at] + "x", "again"))
    return " ".join(words)


def with_copies(notes: int) -> list[Rating]:
    """The visits, each with the triage notes of others, a third without numbers, and as many altered copies."""
    draw = random.Random(9)
    triage = [row.prompt.split("\n")[2] for row in VISITS]
    rows: list[Rating] = []
    for at, row in enumerate(VISITS):
        prompt = row.prompt.replace("\n\n", "\n" + "\n".join(draw.sample(triage, notes)) + "\n\n", 1)
        if at % 3 == 0:
            prompt = "".join(letter for letter in prompt if not letter.isdigit())
        rows.append(replace(row, prompt=prompt))
        rows.append(replace(row, id=f"copy {at}", group=None, prompt=altered(draw.choice(rows).prompt, draw)))
    return rows


def digest(rows: list[Rating], duplicates: Duplicates) -> str:
    parts = split(rows, duplicates, dev_share=0.1, test_share=0.2, seed=42).parts()
    ids = [[row.id for row in members] for members in parts.values()]
    return hashlib.sha256(repr((duplicates.same, duplicates.near, ids)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("notes", "near", "expected"),
    [(0, 0, "e08db0fdeedba6f2"), (1, 931, "cf93c4ca5ef73dc2"), (8, 2294, "ed529613604050f9")],
)
def test_duplicates_and_split_are_as_before(notes: int, near: int, expected: str) -> None:
    rows = with_copies(notes) if notes else VISITS
    duplicates = find_duplicates(rows, 0.9)
    assert (len(duplicates.near), digest(rows, duplicates)) == (near, expected)
