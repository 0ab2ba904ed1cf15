"""Groups and parts: repeats stay together, classes are shared out, nothing depends on chance or on the rows' order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.errors import DatasetError
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import load_scale
from expertune.ratings.schema import Rating, Split
from expertune.ratings.split import group_ratings, split

DATA = Path(__file__).parent.parent / "data" / "ratings"
SHARES = {"dev_share": 0.1, "test_share": 0.2}
SCHEMA = "\n\nTask: Rate the visit.\n\nRating schema:\n1 = Match\n0 = Does Not Match"


def visits() -> list[Rating]:
    return read_ratings(DATA / "ktas_acuity_subset.csv", load_scale(DATA / "ktas_acuity.json", None))


def rating(id: object, prompt: str = "", value: int = 0, group: str | None = None) -> Rating:
    return Rating(str(id), 2, prompt or f"text number {id}", value, str(value), group=group)


def groups_of(ratings: list[Rating]) -> dict[str, str]:
    return group_ratings(ratings, find_duplicates(ratings, 0.9))


def split_in_parts(ratings: list[Rating], seed: int) -> Split:
    return split(ratings, find_duplicates(ratings, 0.9), **SHARES, seed=seed)


def clusters(ratings: list[Rating]) -> list[set[str]]:
    """The groups of more than one row."""
    groups = groups_of(ratings)
    sizes = Counter(groups.values())
    return [{id for id, group in groups.items() if group == name} for name in sorted(sizes) if sizes[name] > 1]


def test_real_visits_of_one_template_are_apart_and_the_four_true_repeats_together() -> None:
    # each pair has the same age and vital signs and another wording of the diagnosis
    assert sorted(map(sorted, clusters(visits()))) == [["202", "766"], ["205", "241"], ["469", "75"], ["543", "934"]]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("cough\nAge 34\nSex F", "Cough.\nage: 34\n\nSEX F ", True),  # case, spaces, punctuation
        ("cough\nAge 34\nSex F", "cough\nAge 35\nSex F", False),
        ("cough\nAge 34\nSex F", "rash\nAge 34\nSex F", False),
        ("pain in arm rt\nAge 34", "pain in arm lt\nAge 34", False),
        ("productive cough\nAge 34", "productive cuogh\nAge 34", True),  # one misspelt word
        ("productive cough\nAge 34", "prodctive cuogh\nAge 34", False),  # two: too little is left of a short text
        ("cough\nAge 34\nTemp 37.1", "cough\nAge 34\nTemp 31.7", False),
        ("cough and fever\nAge 34", "fever and cough\nAge 34", True),
    ],
)
def test_short_texts(one: str, other: str, together: bool) -> None:
    fillers = [rating(f"f{i}", f"complaint {word}\nAge {i}{SCHEMA}") for i, word in enumerate("abcdefgh")]
    rows = [rating("x", one + SCHEMA), rating("y", other + SCHEMA), *fillers]
    assert clusters(rows) == ([{"x", "y"}] if together else [])


def prose(seed: int, words: int = 120) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(words)]


@pytest.mark.parametrize(("changed", "together"), [(0.02, True), (0.04, True), (0.5, False)])
def test_long_texts_with_some_words_changed(changed: float, together: bool) -> None:
    words, others = prose(1), prose(2)
    count = int(len(words) * changed)
    copy = [*words[:20], *others[:count], *words[20 + count :]]
    rows = [
        rating("x", " ".join(words) + SCHEMA),
        rating("y", " ".join(copy) + SCHEMA),
        *(rating(i, " ".join(prose(i)) + SCHEMA) for i in range(3, 10)),
    ]
    assert clusters(rows) == ([{"x", "y"}] if together else [])


def test_long_notes_of_one_template_are_told_apart_by_their_numbers() -> None:
    note = " ".join(prose(1, 60))
    rows = [rating(i, f"{note}\nAge {20 + i} temp 37.{i} pulse {60 + 7 * i}" + SCHEMA) for i in range(9)]
    single_line = [rating(r.id, r.prompt.replace("\n", " ")) for r in rows]
    assert clusters(rows) == clusters(single_line) == []


def test_many_copies_of_one_text_are_one_group() -> None:
    words = prose(1)
    copies = [rating(f"c{i}", " ".join([*words[:i], "edited", *words[i:]])) for i in range(100)]
    others = [rating(i, " ".join(prose(i))) for i in range(1000, 1150)]
    assert clusters([*copies, *others]) == [{copy.id for copy in copies}]


def test_patients_and_repeated_row_ids_are_groups_and_groups_join() -> None:
    rows = [
        rating(1, group="P"),
        rating(2, group="P"),
        rating(3, "text number 2"),
        rating(4, group="Q"),
        rating(5),
        *(replace(rating(id, text), extra={"Row_ID": "9"}) for id, text in ((6, "a b c"), (7, "d e f"))),
    ]
    assert clusters(rows) == [{"1", "2", "3"}, {"6", "7"}]
    assert groups_of(rows)["3"] == "1"


def test_real_visits_are_shared_out_by_class() -> None:
    rows = visits()
    parts = split_in_parts(rows, seed=42).parts()
    totals = Counter(r.value for r in rows)
    for part, share in {"train": 0.7, "dev": 0.1, "test": 0.2}.items():
        counts = Counter(r.value for r in parts[part])
        assert all(abs(counts[value] - share * total) <= 1.5 for value, total in totals.items()), (part, counts)


def test_another_seed_is_another_split() -> None:
    rows = visits()
    first, second = (split_in_parts(rows, seed=seed) for seed in (1, 2))
    assert first.test != second.test


@st.composite
def many_ratings(draw: st.DrawFn) -> list[Rating]:
    """20 to 60 rows of 2 to 4 classes; some patients have up to three rows."""
    classes = draw(st.integers(2, 4))
    values = draw(st.lists(st.integers(0, classes - 1), min_size=20, max_size=60))
    patients = draw(st.lists(st.integers(0, len(values) * 2), min_size=len(values), max_size=len(values)))
    seen: Counter[int] = Counter(patients)
    rows = [
        rating(i, " ".join(prose(i, 8)), value, f"P{patient}" if seen[patient] <= 3 else None)
        for i, (value, patient) in enumerate(zip(values, patients, strict=True))
    ]
    rows[0:2] = [rating(0, "first of all", 0), rating(1, "second to none", 1)]
    return rows


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(many_ratings(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_what_holds_for_every_split(rows: list[Rating], seed: int, chance: random.Random) -> None:
    done = split_in_parts(rows, seed=seed)
    parts = done.parts()
    assert sorted(r.id for part in parts.values() for r in part) == sorted(r.id for r in rows)
    assert set(done.groups) == {r.id for r in rows}
    places: dict[str, set[str]] = {}
    of_class: dict[int, set[str]] = {}
    for part, ratings in parts.items():
        for r in ratings:
            places.setdefault(done.groups[r.id], set()).add(part)
            of_class.setdefault(r.value, set()).add(done.groups[r.id])
    assert all(len(held) == 1 for held in places.values())
    for value, groups in of_class.items():
        if len(groups) >= 3:
            assert all(any(r.value == value for r in part) for part in parts.values())
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert split_in_parts(shuffled, seed=seed) == done


def test_every_row_of_pure_groups_lands_within_one_of_its_share() -> None:
    rows = [rating(i, " ".join(prose(i, 8)), value) for i, value in enumerate([0] * 70 + [1] * 21 + [2] * 9)]
    parts = split_in_parts(rows, seed=3).parts()
    for part, share in zip(parts.values(), (0.7, 0.1, 0.2), strict=True):
        counts = Counter(r.value for r in part)
        assert all(abs(counts[value] - share * total) <= 1 for value, total in ((0, 70), (1, 21), (2, 9)))


def test_three_rows_are_the_least() -> None:
    parts = split_in_parts([rating(1), rating(2), rating(3, value=1)], seed=0).parts()
    assert [len(part) for part in parts.values()] == [1, 1, 1]


def fano_rows() -> list[Rating]:
    """Seven classes over seven patients, three each and any two with one in common: no three colours can do it."""
    lines = ((0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5))
    return [
        rating(f"{value}-{patient}", " ".join(prose(10 * value + patient, 8)), value, f"P{patient}")
        for value, patients in enumerate(lines)
        for patient in patients
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "at least two classes"),
        ([rating(i) for i in range(9)], "all 9 rows are rated 0"),
        ([rating(1), rating(1, value=1), rating(2)], "duplicate row id 1"),
        ([rating(i, group="P", value=i % 2) for i in range(9)], "only 1 separate groups"),
        ([rating(i, group="P" if i < 95 else None, value=i % 2) for i in range(100)], "95 of 100 rows are one group"),
        (fano_rows(), "share too few groups"),
    ],
)
def test_what_cannot_be_split_says_what_to_do(rows: list[Rating], says: str) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        split_in_parts(rows, seed=0)
    assert "\n" not in str(caught.value)
