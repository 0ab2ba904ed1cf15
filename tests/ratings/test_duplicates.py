"""One pass over the prompts finds the duplicates for both audit and split, in whatever order the rows come."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz import fuzz
from rapidfuzz.distance import OSA

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


def made_up(rows: int, footer: str) -> list[Rating]:
    """Records of 60 random words, two of five with the same footer."""
    draw = random.Random(0)
    known = ["".join(draw.choices(string.ascii_lowercase, k=draw.randrange(3, 10))) for _ in range(3000)]
    bodies = [" ".join(draw.choices(known, k=60)) for _ in range(rows)]
    prompts = [body + footer * (i % 5 < 2) for i, body in enumerate(bodies)]
    return [Rating(str(i), i + 2, prompt, i % 2, str(i % 2)) for i, prompt in enumerate(prompts)]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the comparisons of two texts and of two words; each is made as before."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, compare: Callable[..., float]) -> None:
        def count(*arguments: Any, **options: Any) -> float:
            counts[name] += 1
            return compare(*arguments, **options)

        monkeypatch.setattr(module, name, count)

    counted(fuzz, "ratio", fuzz.ratio)
    counted(OSA, "distance", OSA.distance)
    return counts


def test_a_footer_with_numbers_costs_no_comparison_of_all_pairs(compared: Counter[str]) -> None:
    rows = made_up(1000, "\nEmergency department, phone 030 4711 0815 22 33")
    rows[999] = replace(rows[999], prompt=rows[1].prompt.replace(" ", "  ", 1) + " again")
    rows[996] = replace(rows[996], prompt=rows[0].prompt.replace("Emergency", "The emergency"))
    assert find_duplicates(rows, 0.9).near == ((0, 996), (1, 999))
    assert compared["ratio"] < 3 * len(rows)  # all pairs of the 400 with the footer would be 79,800


def test_one_common_sentence_costs_no_comparison_of_all_its_words(compared: Counter[str]) -> None:
    draw = random.Random(0)
    complaints = ["".join(draw.choices(string.ascii_lowercase, k=9)) for _ in range(1000)]
    complaints[900:903] = [
        "x" + complaints[0][1:],
        complaints[1][:-1],
        complaints[2][1] + complaints[2][0] + complaints[2][2:],
    ]
    rows = [Rating(str(i), i + 2, f"The patient came with {word}", 0, "0") for i, word in enumerate(complaints)]
    assert find_duplicates(rows, 0.9).near == ((0, 900), (1, 901), (2, 902))
    assert compared["distance"] < len(rows)  # all pairs would be 499,500
