"""Audit the rated rows before training: classes, duplicates, leaks and missing rationales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .cells import for_error
from .column_leaks import column_leaks
from .columns import NO_PATIENT
from .findings import Finding, finding_of
from .leaks import prompt_leaks
from .near_duplicates import Duplicates
from .scale import RatingScale
from .schema import Rating
from .split import group_ratings

FEW_ROWS = 50  # usable rows below which a tuned model would be a guess
FEW_OF_A_CLASS = 10
DOMINANT_SHARE = 1 / 3  # of the rows, of one patient or group


@dataclass(frozen=True)
class AuditReport:
    """`rows`: number of audited rows. `by_label`: rows of each label, 0 included. `findings`: errors first."""

    findings: tuple[Finding, ...]
    rows: int
    by_label: Mapping[str, int]

    def lines(self) -> list[str]:
        """Return the lines for the terminal and the log: ids and counts, never the text of a row."""
        labels = ", ".join(f"{label} {count}" for label, count in self.by_label.items())
        lines = [f"{self.rows} rows: {labels}"]
        for finding in self.findings:
            more = finding.count - len(finding.row_ids)
            ids = ", ".join(finding.row_ids) + (f" and {more} more" if more > 0 else "")
            lines.append(f"{finding.severity}: {finding.message}" + (f" (row ids {ids})" if finding.row_ids else ""))
        return lines


def audit(ratings: Sequence[Rating], scale: RatingScale, duplicates: Duplicates) -> AuditReport:
    """Collect all findings about the rows; `duplicates` are those of the same ratings.

    Lines that most rows contain (task, rating schema) are not a leak.
    """
    by_value = Counter(rating.value for rating in ratings)
    findings = [
        *_class_findings(by_value, scale),
        *_duplicates(ratings, duplicates),
        *prompt_leaks(ratings, scale),
        *column_leaks(ratings),
        *_no_patients(ratings),
        *_dominant_group(ratings, duplicates),
        *_missing_rationales(ratings),
    ]
    findings.sort(key=lambda finding: ("error", "warning", "info").index(finding.severity))
    by_label = {label: by_value[value] for label, value in zip(scale.labels, scale.values, strict=True)}
    return AuditReport(tuple(findings), len(ratings), by_label)


def _class_findings(by_value: Counter[int], scale: RatingScale) -> Iterator[Finding]:
    rows = by_value.total()
    if len(by_value) < 2:
        yield Finding(
            "one_class",
            "error",
            len(by_value),
            (),
            "all rows have the same rating; at least two classes are needed: rate rows of another class too",
        )
    if rows < FEW_ROWS:
        yield Finding(
            "few_rows",
            "warning",
            rows,
            (),
            f"only {rows} rows; below {FEW_ROWS} a tuned model is a guess, rate more rows",
        )
    small = [f"{scale.label_of(value)} {count}" for value, count in by_value.items() if count < FEW_OF_A_CLASS]
    if small:
        yield Finding(
            "small_class",
            "warning",
            len(small),
            (),
            f"fewer than {FEW_OF_A_CLASS} rows of: "
            f"{', '.join(small)}; the model cannot learn them and nothing can be measured on them, rate more",
        )
    unused = [label for label, value in zip(scale.labels, scale.values, strict=True) if not by_value[value]]
    if unused:
        yield Finding("unused_rating", "info", len(unused), (), f"no row is rated {', '.join(unused)}")


def _no_patients(ratings: Sequence[Rating]) -> Iterator[Finding]:
    if not any(rating.group for rating in ratings):
        yield Finding("no_patient_column", "warning", len(ratings), (), NO_PATIENT)


def _dominant_group(ratings: Sequence[Rating], duplicates: Duplicates) -> Iterator[Finding]:
    """Yield a finding if one patient, or else one group of the split, has many of the rows."""
    if len(ratings) < FEW_ROWS:
        return
    patients = Counter(rating.group for rating in ratings if rating.group)
    patient, rows = max(patients.items(), key=lambda pair: pair[1], default=("", 0))
    kind, who = "dominant_patient", f"of one patient, {for_error(patient, 40)}"
    own = [rating for rating in ratings if rating.group == patient]
    if rows <= DOMINANT_SHARE * len(ratings):
        group_of = group_ratings(ratings, duplicates)
        group, _ = Counter(group_of.values()).most_common(1)[0]
        kind, who = "dominant_group", "one group (same patient, same or nearly the same text), which is not divided"
        own = [rating for rating in ratings if group_of[rating.id] == group]
    if len(own) > DOMINANT_SHARE * len(ratings):
        share = len(own) / len(ratings)
        remedy = "the model learns that one, and little is left to test on: add rows of others, or correct the ids"
        yield from finding_of(kind, "warning", own, f"{{n}} rows ({share:.0%}) are {who}; {remedy}")


def _duplicates(ratings: Sequence[Rating], duplicates: Duplicates) -> Iterator[Finding]:
    disputed = [group for group in duplicates.same if len({ratings[i].value for i in group}) > 1]
    near = sorted({i for pair in duplicates.near for i in pair})
    yield from finding_of(
        "conflicting_ratings",
        "warning",
        (ratings[i] for group in disputed for i in group),
        "{n} rows have the same text as another row but not the same rating; settle which is right",
    )
    yield from finding_of(
        "exact_duplicates",
        "warning",
        (ratings[i] for group in duplicates.same for i in group),
        "{n} rows have the same text as another row; they are kept in one part of the split",
    )
    yield from finding_of(
        "near_duplicates",
        "info",
        (ratings[i] for i in near),
        "{n} rows have nearly the same text as another row; they are kept in one part of the split",
    )


def _missing_rationales(ratings: Sequence[Rating]) -> Iterator[Finding]:
    yield from finding_of(
        "missing_rationales",
        "info",
        (rating for rating in ratings if not rating.rationale),
        "{n} rows have no rationale; only their rating is learned",
    )
