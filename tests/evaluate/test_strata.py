from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.errors import UsageError
from expertune.evaluate.subgroups import FEWEST, NOT_GIVEN, SubgroupColumn, age_band, hide, subgroups_of
from expertune.ratings.columns import check_columns
from expertune.ratings.schema import Rating


@pytest.mark.parametrize(
    ("cell", "band"),
    [
        ("34", "18–44"),
        ("34Y", "18–44"),
        ("34 years old", "18–44"),
        ("34-year-old", "18–44"),
        ("34 y.o", None),
        ("0", "under 1"),
        ("11 months", "under 1"),
        ("12 mo", "1–4"),
        ("3W", "under 1"),
        ("10 days", "under 1"),
        ("0.5", "under 1"),
        ("1", "1–4"),
        ("4.9", "1–4"),
        ("5", "5–17"),
        ("17", "5–17"),
        ("18", "18–44"),
        ("45", "45–64"),
        ("64,5", "45–64"),
        ("65", "65 and over"),
        ("90+", "65 and over"),
        (">89", "65 and over"),
        ("130", "65 and over"),
        ("131", None),
        ("999", None),
        ("18-44", None),
        ("-3", None),
        ("adult", None),
        ("", None),
        ("3 4", None),
    ],
)
def test_age_bands(cell: str, band: str | None) -> None:
    assert age_band(cell) == band


def rows(columns: dict[str, list[str]], labels: list[int] | None = None) -> list[Rating]:
    count = len(next(iter(columns.values())))
    source = random.Random(1)
    drawn = labels or [source.randrange(3) for _ in range(count)]
    return [
        replace(row, extra={name: cells[at] for name, cells in columns.items()}) for at, row in enumerate(truth(drawn))
    ]


def strata(expert: list[Rating], columns: Sequence[str] = ()) -> tuple[SubgroupColumn, ...]:
    source = random.Random(2)
    return subgroups_of(expert, rated([source.randrange(3) for _ in expert]), SCALE, {}, columns, 0.95)


def test_figures_of_a_stratum_are_those_of_its_rows_alone() -> None:
    labels = [0, 1] * 60
    expert = rows({"Ward": ["north"] * 80 + ["south"] * 40}, labels)
    model = rated([*labels[:80], *([0] * 40)])  # north without a fault; south always the first label
    (column,) = subgroups_of(expert, model, SCALE, {}, ["ward"], 0.95)
    north, south = column.strata
    assert (north.name, north.rows, north.accuracy and north.accuracy.value) == ("north", 80, 1.0)
    assert (south.name, south.rows, south.accuracy and south.accuracy.value) == ("south", 40, 0.5)
    match = south.per_class[0]
    assert (match.sensitivity and match.sensitivity.value, match.specificity and match.specificity.value) == (1.0, 0.0)
    assert match.ppv is not None and match.ppv.value == 0.5
    assert match.npv is None  # no row of the south was rated otherwise


def test_age_and_sex_are_the_usual_columns() -> None:
    expert = rows({"AGE": ["30", "31Y"] * 30, "sex": ["F", " f "] * 30, "Other": ["x"] * 60})
    age, sex = strata(expert)
    assert (age.column, [each.name for each in age.strata]) == ("AGE", ["18–44"])
    assert (sex.column, [(each.name, each.rows) for each in sex.strata]) == ("sex", [("F", 60)])
    assert strata(rows({"Other": ["x"] * 40})) == ()


def test_bands_stand_in_their_order_and_what_is_no_age_last() -> None:
    (age,) = strata(rows({"Patient_Age": ["70", "2", "", "30", "unknown"] * 25}), ["Patient Age"])
    assert [each.name for each in age.strata] == ["1–4", "18–44", "65 and over", NOT_GIVEN]
    assert age.strata[-1].rows == 50


def test_a_column_of_bands_stays_as_it_is() -> None:
    (column,) = strata(rows({"Age Group": ["18-44", "45-64", "65+"] * 30}), ["Age_Group"])
    assert [each.name for each in column.strata] == ["18-44", "45-64", "65+"]


def test_a_column_of_texts_or_that_is_not_there_is_told_and_not_shown() -> None:
    many = [f"complaint {at}" for at in range(60)]
    long = ["a text of more than forty characters about a patient"] * 60
    found = strata(rows({"Complaint": many, "Note": long}), ["Complaint", "Note", "Ward"])
    assert [each.column for each in found] == ["Complaint", "Note", "Ward"]
    assert all(each.strata == () and each.note for each in found)
    assert not any(text in str(found) for text in ("complaint 1", "a text of"))


def test_rare_values_are_not_named() -> None:
    (column,) = strata(rows({"Sex": ["F"] * 60 + ["M"] * 50 + ["Jane Doe", "U", ""] + ["M"] * 30}))
    assert [(each.name, each.hidden) for each in column.strata] == [
        ("F", "complement"),
        ("M", None),
        (NOT_GIVEN, "few"),
        ("2 other values", "few"),
    ]
    assert "Jane" not in str(column)


def test_what_is_hidden_cannot_be_worked_out() -> None:
    assert hide({"a": 100, "b": 50, "c": 3}) == {"c": "few", "b": "complement"}
    assert hide({"a": 100, "b": 50, "c": 12, "d": 9}) == {"c": "few", "d": "few"}
    assert hide({"a": 100, "b": FEWEST}) == {}
    assert hide({"a": 5}) == {"a": "few"}
    assert hide({}) == {}


def test_a_column_that_is_not_there_is_told_before_the_work() -> None:
    rows = [Rating("1", 1, "cough", 1, "Match", extra={"Age": "4", "Sex ": "F"})]
    check_columns(rows, ("age", "sex"))
    check_columns(rows, ())
    with pytest.raises(UsageError, match=r"subgroups: the rating file has no column 'Facility'; it has Age, Sex"):
        check_columns(rows, ("Sex", "Facility"))
