"""Leaks are found in every form in which they were planted, and a label that is only a word is none."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from expertune.ratings.audit import audit
from expertune.ratings.findings import Finding
from expertune.ratings.leaks import spoiled
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, RatingScale, make_scale
from expertune.ratings.schema import Rating

EXAMPLES = Path(__file__).parents[2] / "examples"
SCALE = make_scale(DEFAULT_MAPPING)
VISITS = read_ratings(EXAMPLES / "formatted_dataset.csv", SCALE)
LEAKS = {
    *("rating_in_prompt", "label_in_prompt", "rationale_in_prompt"),
    *("column_predicts_rating", "dominant_patient", "dominant_group"),
}


def found(rows: list[Rating], scale: RatingScale = SCALE) -> dict[str, Finding]:
    findings = audit(rows, scale, find_duplicates(rows, 0.9)).findings
    return {finding.kind: finding for finding in findings if finding.kind in LEAKS}


def with_line(row: Rating, line: str) -> Rating:
    return replace(row, prompt=row.prompt.replace("\n", f"\n{line}\n", 1))


def planted(row: Rating, form: str) -> Rating:
    spoken = {1: "matches", 0: "does not match", -1: "unable to determine"}[row.value]
    word = {1: "one", 0: "zero", -1: "minus one"}[row.value]
    return with_line(row, form.format(value=row.value, label=row.label, spoken=spoken, word=word))


def test_the_example_visits_have_none() -> None:
    assert found(VISITS) == {}


STATED = (
    "Expert: {label}",
    "Expert 2: {label}",
    "expert says {spoken}",
    "Rating = {value}",
    "rating: {word}",
    "seen twice. Reviewer says {spoken} because of the cough",
    "triage done, reviewer B: {spoken}",
    '{{"id": 7, "label": "{label}"}}',
    '{{"label": {value}, "source": "chart"}}',
    "<rating>{value}</rating>",
    "Adjudicated rating: {label}",
    "Gold standard: {label}",
    "Consensus: {label}",
    "Rater's decision: {label} (sure)",
    "rated by the nurse. Rated {label}",
)


@pytest.mark.parametrize("form", STATED)
@pytest.mark.parametrize("count", [1, 40, len(VISITS)])
def test_a_stated_rating_is_found_in_one_in_some_and_in_all_prompts(form: str, count: int) -> None:
    rows = [planted(row, form) if at < count else row for at, row in enumerate(VISITS)]
    finding = found(rows)["rating_in_prompt"]
    assert (finding.severity, finding.count) == ("error", count)
    assert finding.row_ids == tuple(row.id for row in rows[:count][:20])
    assert ("of all" in finding.message) is (count == len(rows))


NAMED = (
    "{label}",
    "note: dr. jones thinks it {spoken}",
    "[{label}]",
    "=> {label}",
    "y: {value}",
    "status_code={value}",
    "outcome of chart review was {label}, signed",
)


@pytest.mark.parametrize("form", NAMED)
def test_a_rating_in_other_words_is_found_where_it_is_no_chance(form: str) -> None:
    rows = [planted(row, form) if at % 3 == 0 else row for at, row in enumerate(VISITS)]
    finding = found(rows)["label_in_prompt"]
    assert (finding.severity, finding.count) == ("warning", len(rows[::3]))
    assert finding.row_ids[:2] == (rows[0].id, rows[3].id)


def test_most_of_the_mentions_are_right_where_a_second_reviewer_wrote_them() -> None:
    draw = random.Random(1)
    rows = [
        planted(row, "Reviewer 2: {label}" if draw.random() < 0.8 else f"Reviewer 2: {draw.choice(SCALE.labels)}")
        for row in VISITS
    ]
    assert found(rows)["rating_in_prompt"].count > 380


def test_a_template_that_always_shows_the_rating_comes_first_in_the_verdict() -> None:
    for form in ("Expert: {label}", "{label}"):
        finding = next(iter(found([planted(row, form) for row in VISITS]).values()))
        assert finding.severity == "error"
        assert spoiled([finding], len(VISITS)).startswith("Warning: 500 of 500 prompts (100%) contain their own rating")
    few = found([planted(row, "Expert: {label}") if at < 100 else row for at, row in enumerate(VISITS)])
    assert spoiled(list(few.values()), len(VISITS)) == ""


@pytest.mark.parametrize(
    "form",
    [
        "Allergies: {label}",
        "{label}",
        "patient asks: {label}?",
        "the blood type is {label} with donor",
        "Answer: {label}",
        "Rating: {value}",
        "reviewer says {label}",
        "stage = {value}",
    ],
)
def test_label_words_that_do_not_follow_the_rating_are_no_leak(form: str) -> None:
    draw = random.Random(7)
    rows = []
    for at, row in enumerate(VISITS):
        value = draw.choice([each.value for each in VISITS])  # as often as the rating, and independent of it
        line = form.format(value=value, label=SCALE.label_of(value))
        rows.append(with_line(row, line) if at % 3 == 0 else row)
    assert found(rows) == {}


def test_yes_and_no_are_words_of_every_record() -> None:
    scale = make_scale({"Yes": 1, "No": 0})
    rows = [replace(row, value=int(row.value == 1), label="Yes" if row.value == 1 else "No") for row in VISITS]
    assert found(rows, scale) == {}
    rows = [with_line(row, f"respiratory - {row.label}") for row in rows]
    assert found(rows, scale)["label_in_prompt"].severity == "error"


def test_labels_of_other_scripts() -> None:
    labels = {1: "符合", 0: "不符合", -1: "未知"}
    scale = make_scale({label: value for value, label in labels.items()})
    rows = [replace(row, label=labels[row.value]) for row in VISITS]
    rows = [with_line(row, f"专家认为{row.label}。") if at % 4 == 0 else row for at, row in enumerate(rows)]
    assert found(rows, scale)["label_in_prompt"].count == 125


@pytest.mark.parametrize("form", ["Rationale: {}", "expert reason: {}.", "Explanation of rating = {}", "note {} (sic)"])
def test_the_rationale_in_the_prompt(form: str) -> None:
    rows = [with_line(row, form.format(row.rationale.upper())) if at < 30 else row for at, row in enumerate(VISITS)]
    long = {row.id for row in rows[:30] if len(row.rationale.split()) > 4}
    ids = {row.id for row in rows[:30]} if "note" not in form else long
    finding = found(rows)["rationale_in_prompt"]
    assert len(long) < 30
    assert finding.count == len(ids) and set(finding.row_ids) <= ids


# --- columns ---


def with_column(cell: Callable[[Rating, int], str], *, shown: bool = False) -> list[Rating]:
    rows = [replace(row, extra={**row.extra, "Extra": cell(row, at)}) for at, row in enumerate(VISITS)]
    return [replace(row, prompt=f"{row.prompt}\nExtra: {row.extra['Extra']}") for row in rows] if shown else rows


def day(row: Rating, at: int) -> date:
    """Visits that match are of a later season, those that do not of an earlier one."""
    return date(2025, 3, 1) + timedelta(days=at % 60 + 120 * row.value)


COLUMNS: dict[str, Callable[[Rating, int], str]] = {
    "a code": lambda row, at: {1: "R", 0: "N", -1: "?"}[row.value],
    "a code with errors": lambda row, at: "RN?"[row.value] if at % 40 else "R",
    "a number": lambda row, at: str(row.value * 10 + 0.1 * (at % 7)),
    "a reviewer": lambda row, at: {1: "Anna Smith", 0: "Bob Jones", -1: "Carl Gray"}[row.value],
    "filled in for matches only": lambda row, at: f"2025-04-{at % 28 + 1:02}" if row.value == 1 else "",
    "a date": lambda row, at: f"{day(row, at):%Y-%m-%d}",
    "a German date": lambda row, at: f"{day(row, at):%d.%m.%Y}",
    "an American date": lambda row, at: f"{day(row, at):%m/%d/%Y}",
    "a range of ids": lambda row, at: f"V-{(row.value + 1) * 1000 + at}",
    "an id with the site": lambda row, at: f"{'ABC'[row.value]}{at:05}",
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("shown", [False, True])
def test_a_column_that_predicts_the_rating_alone(name: str, shown: bool) -> None:
    finding = found(with_column(COLUMNS[name], shown=shown))["column_predicts_rating"]
    assert finding.severity == "warning" and finding.count > 100
    assert "column Extra alone" in finding.message
    assert ("it is in the prompts" in finding.message) is shown


@pytest.mark.parametrize(
    "cell",
    [
        lambda row, at: "constant",
        lambda row, at: f"site {at * 7 % 5}",
        lambda row, at: f"V-{at:05}",
        lambda row, at: f"2025-{at % 12 + 1:02}-{at % 28 + 1:02}",
        lambda row, at: "R" if (row.value == 1) == (at % 4 > 0) else "N",  # 75 % right
        lambda row, at: row.prompt.splitlines()[2],  # free text
        lambda row, at: f"{row.rationale}, case {at}",
    ],
)
def test_a_column_that_does_not(cell: Callable[[Rating, int], str]) -> None:
    assert found(with_column(cell)) == {}


def test_ids_and_fields_of_the_prompts_are_columns_too() -> None:
    ranges = [replace(row, id=str(5000 + 2000 * row.value + at)) for at, row in enumerate(VISITS)]
    assert found(ranges)["column_predicts_rating"].message.startswith("the record id alone predicts")
    patients = [replace(row, group=f"{'XYZ'[row.value]}-{at}") for at, row in enumerate(VISITS)]
    assert found(patients)["column_predicts_rating"].message.startswith("the patient id alone predicts")
    fields = [with_line(row, f"Queue: {'qrs'[row.value]}{at % 9}") for at, row in enumerate(VISITS)]
    assert found(fields)["column_predicts_rating"].message.startswith('the line "Queue" of the prompts alone')


def test_a_patient_who_always_has_one_rating_is_no_leak() -> None:
    """Ratings belong to patients here, so that a column of the patient repeats them; other patients show that."""
    rows = [
        replace(row, group=f"p{at % 40}", value=at % 40 * 7 % 3 - 1, label=SCALE.label_of(at % 40 * 7 % 3 - 1))
        for at, row in enumerate(VISITS)
    ]
    draw = random.Random(3)
    born = {f"p{number}": f"{draw.randint(1930, 2020)}-05-01" for number in range(40)}
    rows = [replace(row, extra={"Born": born[row.group or ""]}) for row in rows]
    assert "column_predicts_rating" not in found(rows)


def test_few_records_prove_nothing() -> None:
    rows = [replace(row, extra={"Extra": row.label}) for row in VISITS[:14]]
    assert "column_predicts_rating" not in found(rows)


# --- one patient, one group ---


def test_one_patient_with_most_of_the_records() -> None:
    rows = [replace(row, group="MRN 7" if at < 300 else f"p{at}") for at, row in enumerate(VISITS)]
    finding = found(rows)["dominant_patient"]
    assert (finding.severity, finding.count) == ("warning", 300)
    assert "(60%) are of one patient, MRN 7;" in finding.message
    assert finding.row_ids == tuple(row.id for row in rows[:20])


def test_one_group_with_most_of_the_records() -> None:
    rows = [replace(row, prompt=VISITS[0].prompt.upper()) if at < 260 else row for at, row in enumerate(VISITS)]
    finding = found(rows)["dominant_group"]
    assert finding.count >= 260 and "(5" in finding.message
    alike = found([replace(row, prompt=f"{VISITS[0].prompt} {'ab'[at % 2]}{at % 9}") for at, row in enumerate(VISITS)])
    assert alike["dominant_group"].count > 166
