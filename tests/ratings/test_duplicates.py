"""One pass over the prompts finds the duplicates for both audit and split, in whatever order the rows come."""

from __future__ import annotations

import random
from pathlib import Path

from expertune.ratings.near_duplicates import Duplicates, find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import load_scale
from expertune.ratings.schema import Rating

DATA = Path(__file__).parent.parent / "data" / "ratings"


def ids(rows: list[Rating], found: Duplicates) -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    same, near = ({frozenset(rows[i].id for i in group) for group in groups} for groups in (found.same, found.near))
    return same, near


def test_positions_are_those_of_the_rows_as_given() -> None:
    prompts = ["productive cuogh\nAge 34", "rash\nAge 5", "Rash.\nage: 5", "productive cough\nAge 34", "pain\nAge 7"]
    rows = [Rating(str(9 - i), i + 2, prompt, 0, "0") for i, prompt in enumerate(prompts)]
    assert find_duplicates(rows, 0.9) == Duplicates(same=((1, 2),), near=((0, 3),))


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = read_ratings(DATA / "ktas_acuity_subset.csv", load_scale(DATA / "ktas_acuity.json", None))
    rows += [Rating(f"{row.id}-again", 0, row.prompt.upper(), row.value, row.label) for row in rows[::5]]
    shuffled = random.Random(1).sample(rows, len(rows))
    found = ids(rows, find_duplicates(rows, 0.9))
    assert (len(found[0]), len(found[1])) == (13, 4)
    assert ids(shuffled, find_duplicates(shuffled, 0.9)) == found
