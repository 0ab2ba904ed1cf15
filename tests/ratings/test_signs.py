"""Text that is compared keeps what carries meaning: signs, comparison marks, and the marks of every script."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.ratings.audit import audit
from expertune.ratings.near_duplicates import find_duplicates, same_texts
from expertune.ratings.normalize import fold, words
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, load_scale, make_scale, parse_answer

FAULTS = Path(__file__).parent.parent / "data/faults/signs_dropped"
SCALE = make_scale(DEFAULT_MAPPING)

DIFFERENT = [
    ("nitrite +", "nitrite -"),
    ("nitrite -", "nitrite"),
    ("flu A (-)", "flu A (+)"),
    ("Saturation < 90 %", "Saturation > 90 %"),
    ("p <= 0.05", "p < 0.05"),
    ("a != b", "a = b"),
    ("≥ 5", "≤ 5"),
    ("-5 kg", "+5 kg"),
    ("-5 kg", "5 kg"),
    ("C++", "C"),
    ("C#", "C"),
    ("HER2 ++", "HER2 +"),
    ("90 %", "90"),
    ("sepsis?", "sepsis"),
    ("☑ fever", "☐ fever"),
    ("€ 5", "$ 5"),
    ("हिन्दी", "हनद"),
    ("กิน", "กน"),
    ("5 ± 1", "5 1"),
]
EQUAL = [
    ("Not a  match.", "not a match"),
    ("- fever\n- cough", "fever, cough"),
    ("nitrite −", "nitrite -"),  # U+2212
    ("nitrite –", "nitrite -"),  # as Word corrects it
    ("COVID-19", "covid 19"),
    ("non-match", "non match"),
    ("| fever |\n--- | ---", "fever"),
    ("**Match**", "match"),
    ("caf\u00e9", "cafe\u0301"),
    ("co\u00adugh", "cough"),  # a soft hyphen
    ("✓\ufe0f", "✓"),
    ("a\u00a0b", "a b"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_signs_make_a_difference(one: str, other: str) -> None:
    assert words(one) != words(other) and fold(one) != fold(other)
    assert same_texts([one, other]) == []


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_case_punctuation_and_typography_make_none(one: str, other: str) -> None:
    assert words(one) == words(other) and fold(one) == fold(other)
    assert same_texts([one, other]) == [[0, 1]]


@given(st.text())
def test_no_letter_number_or_mark_is_lost(text: str) -> None:
    """By Unicode's own categories, after its own normalization."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.casefold()).casefold())
    kept = [each for each in plain if unicodedata.category(each)[0] in "LNM" and not 0xFE00 <= ord(each) <= 0xFE0F]
    found = "".join(words(text))
    assert [each for each in found if unicodedata.category(each)[0] in "LNM"] == kept


def test_the_reported_rows_are_different_records() -> None:
    rows = read_ratings(FAULTS / "rows.csv", SCALE)
    assert find_duplicates(rows, 0.9).same == ()
    kinds = {finding.kind for finding in audit(rows, SCALE, find_duplicates(rows, 0.9)).findings}
    assert not kinds & {"conflicting_ratings", "exact_duplicates"}


def test_labels_that_differ_by_a_sign_are_a_scale() -> None:
    scale = load_scale(FAULTS / "scale_minus2_to_2.json", None)
    assert scale.labels == ("-2", "-1", "0", "1", "2")
    assert {row.value for row in read_ratings(FAULTS / "scale.csv", scale)} == {-2, -1, 0, 1, 2}
    her2 = load_scale(FAULTS / "her2.json", None)
    assert [her2.value_of(cell) for cell in ("HER2+", "HER2 -", "her2−", "HER2")] == [1, 0, 0, None]
    signs = make_scale({"+": 1, "-": 0})
    assert [signs.value_of(cell) for cell in ("+", "-", "−", "")] == [1, 0, 0, None]


def test_a_question_mark_is_a_doubt() -> None:
    assert SCALE.value_of("Match ?") is None and SCALE.value_of("Match.") == 1
    assert parse_answer("Match?", SCALE).state == "unparsable"


@pytest.mark.parametrize(("line", "stated"), [("Rating: -> Match", True), ("Label → 1", True), ("Rating: -1", False)])
def test_an_arrow_before_a_stated_rating_does_not_hide_it(line: str, stated: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'Prompt,Standardized_Rating\n"fever\n{line}",1\nchest pain,0\n', encoding="utf-8")
    rows = read_ratings(path, SCALE)
    kinds = {finding.kind for finding in audit(rows, SCALE, find_duplicates(rows, 0.9)).findings}
    assert ("rating_in_prompt" in kinds) is stated
