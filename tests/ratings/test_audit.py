"""The audit finds what was planted, and takes neither the task nor the schema for a leak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from expertune.ratings.audit import AuditReport, Finding, audit
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, RatingScale, load_scale, make_scale
from expertune.ratings.schema import Rating

DATA = Path(__file__).parent.parent / "data" / "ratings"
SCALE = make_scale(DEFAULT_MAPPING)
ACUITY = load_scale(DATA / "ktas_acuity.json", None)


def visits() -> list[Rating]:
    return read_ratings(DATA / "ktas_acuity_subset.csv", ACUITY)


def audited(ratings: list[Rating], scale: RatingScale = ACUITY) -> AuditReport:
    return audit(ratings, scale, find_duplicates(ratings, 0.9))


def found(ratings: list[Rating], scale: RatingScale = ACUITY) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audited(ratings, scale).findings}


def test_real_visits() -> None:
    findings = found(visits())
    assert set(findings) == {"small_class", "no_patient_column", "near_duplicates", "missing_rationales"}
    assert set(findings["near_duplicates"].row_ids) == {"75", "202", "205", "241", "469", "543", "766", "934"}
    assert findings["small_class"].message.startswith("fewer than 10 rows of: Resuscitation 8;")


def test_planted_duplicates_and_conflicts() -> None:
    rows = visits()
    repeat = replace(rows[0], id="again", prompt=rows[0].prompt.upper() + "\n")
    other = next(value for value in ACUITY.values if value != rows[1].value)
    dispute = replace(rows[1], id="dispute", value=other)
    findings = found([*rows, repeat, dispute])
    assert set(findings["exact_duplicates"].row_ids) == {rows[0].id, "again", rows[1].id, "dispute"}
    assert set(findings["conflicting_ratings"].row_ids) == {rows[1].id, "dispute"}


@pytest.mark.parametrize(
    "leak",
    [
        "Rating: {value}",
        "Standardized_Rating = {value}",
        "Rated as {label}",
        "rated {label}",
        "- **Expert rating:** {label}",
        '{{"rating": "{label}", "rationale": "clear"}}',
        "Rating: {value}, Rationale: clear",
        "Fever. Rating: {value}.",
        "Final Answer: {label}",
        "Label is {label}",
        "Standardized_Rating: {value} ({label})",
        "Ground truth: {label}",
    ],
)
def test_a_rating_in_one_prompt(leak: str) -> None:
    rows = visits()
    row = rows[5]
    line = leak.format(value=row.value, label=row.label)
    rows[5] = replace(row, prompt=row.prompt.replace("\n", f"\n{line}\n", 1))
    finding = found(rows)["rating_in_prompt"]
    assert (finding.row_ids, finding.severity) == ((row.id,), "error")


def test_a_rating_in_every_prompt_even_where_most_rows_share_it() -> None:
    rows = [Rating(str(i), i + 2, f"visit {i}\nRating: {int(i >= 20)}", int(i >= 20), "x") for i in range(100)]
    assert found(rows, SCALE)["rating_in_prompt"].count == 100


@pytest.mark.parametrize(
    "line",
    [
        "Rating: 1",
        "Rating: 1 = match",
        "Rate as Match or Does Not Match.",
        "1 = resuscitation",
        "Answer: Match",
        "Example: fever. Rating: 0",
    ],
)
def test_lines_of_the_task_are_no_leak(line: str) -> None:
    rows = [Rating(str(i), i + 2, f"visit {i}\n{line}", int(i >= 20), "x") for i in range(100)]
    assert "rating_in_prompt" not in found(rows, SCALE)


@pytest.mark.parametrize(
    "line",
    [
        "Pain rating: {value}",
        "Rating: {other}",
        "Age: {value}",
        "Operating: {value}",
        "Corroborated as {label}",
    ],
)
def test_lines_of_the_record_are_no_leak(line: str) -> None:
    rows = visits()
    row = rows[5]
    other = next(value for value in ACUITY.values if value != row.value)
    text = line.format(value=row.value, label=row.label, other=other)
    rows[5] = replace(row, prompt=f"{text}\n{row.prompt}")
    assert "rating_in_prompt" not in found(rows)


def test_a_rationale_in_its_own_prompt() -> None:
    rows = visits()
    reason = "Severe pain with low blood pressure since the morning."
    rows[3] = replace(rows[3], rationale=reason, prompt=f"{rows[3].prompt}\nNote: {reason.upper()}")
    rows[4] = replace(rows[4], rationale="pain")  # a word that any record may hold
    rows[5] = replace(rows[5], rationale="Rate the triage acuity of this emergency visit")  # the task's own words
    assert found(rows)["rationale_in_prompt"].row_ids == (rows[3].id,)


def test_few_rows_few_classes_unused_labels() -> None:
    rows = [Rating(str(i), i + 2, f"visit {i}", 1, "Match", "r") for i in range(12)]
    findings = found(rows, SCALE)
    assert {kind: finding.severity for kind, finding in findings.items()} == {
        "one_class": "error",
        "few_rows": "warning",
        "no_patient_column": "warning",
        "unused_rating": "info",
    }
    assert "Does Not Match, Unknown" in findings["unused_rating"].message


def test_no_rows_at_all() -> None:
    assert {"one_class", "few_rows"} <= set(found([], SCALE))


def test_the_report_has_counts_and_lines_without_text() -> None:
    rows = [*visits(), *(replace(row, id=f"{row.id}b") for row in visits())]
    report = audited(rows)
    assert report.rows == 128
    assert report.by_label == dict(zip(ACUITY.labels, (16, 24, 36, 32, 20), strict=True))
    assert len(report.findings[0].row_ids) == 20
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    lines = "\n".join(report.lines())
    assert "and 108 more" in lines
    assert "Chief complaint" not in lines
    complaints = [row.prompt.splitlines()[0].removeprefix("Chief complaint: ") for row in rows]
    assert not any(complaint in lines for complaint in complaints if len(complaint) > 8)
