"""Audit the rated rows before training: classes, duplicates, leaks and missing rationales."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .near_duplicates import Duplicates
from .normalize import specific_lines, words
from .scale import RatingScale
from .schema import Rating

FEW_ROWS = 50  # usable rows below which a tuned model would be a guess
FEW_OF_A_CLASS = 10
_SHOWN_IDS = 20
_QUOTED_WORDS = 5  # a shorter rationale ("cough and fever") is likely to occur in any record
_STATED = re.compile(
    r"""(?:^|[.;|{,])[\W_]*
    (?:(?:standardi[sz]ed|expert|human|gold|true|final|correct|assigned)[\s_]*)*
    (?:rating|label|rated|classification|ground[\s_]truth|answer)["'*]*\s*(?::|=|\bis\b|\bas\b|\s)\s*["'*]*
    (?P<rating>[^\n]*)""",
    re.IGNORECASE | re.VERBOSE,
)

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """A fault of `count` rows (or classes); `row_ids` are the first 20 of them. `message` says what to do."""

    kind: str
    severity: Severity
    count: int
    row_ids: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class AuditReport:
    """`rows`: number of audited rows. `by_label`: rows of each label, 0 included. `findings`: errors first."""

    findings: tuple[Finding, ...]
    rows: int
    by_label: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        findings = [{**asdict(finding), "row_ids": list(finding.row_ids)} for finding in self.findings]
        return {"rows": self.rows, "by_label": dict(self.by_label), "findings": findings}

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
        *_leaks(ratings, scale),
        *_missing_rationales(ratings),
    ]
    findings.sort(key=lambda finding: ("error", "warning", "info").index(finding.severity))
    by_label = {label: by_value[value] for label, value in zip(scale.labels, scale.values, strict=True)}
    return AuditReport(tuple(findings), len(ratings), by_label)


def _finding(kind: str, severity: Severity, ratings: Iterable[Rating], message: str) -> Iterator[Finding]:
    """Yield a finding about these rows, or nothing if there are none. {n} in the message is their number."""
    ids = tuple(rating.id for rating in ratings)
    if ids:
        yield Finding(kind, severity, len(ids), ids[:_SHOWN_IDS], message.format(n=len(ids)))


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


def _duplicates(ratings: Sequence[Rating], duplicates: Duplicates) -> Iterator[Finding]:
    disputed = [group for group in duplicates.same if len({ratings[i].value for i in group}) > 1]
    near = sorted({i for pair in duplicates.near for i in pair})
    yield from _finding(
        "conflicting_ratings",
        "warning",
        (ratings[i] for group in disputed for i in group),
        "{n} rows have the same text as another row but not the same rating; settle which is right",
    )
    yield from _finding(
        "exact_duplicates",
        "warning",
        (ratings[i] for group in duplicates.same for i in group),
        "{n} rows have the same text as another row; they are kept in one part of the split",
    )
    yield from _finding(
        "near_duplicates",
        "info",
        (ratings[i] for i in near),
        "{n} rows have nearly the same text as another row; they are kept in one part of the split",
    )


def _leaks(ratings: Sequence[Rating], scale: RatingScale) -> Iterator[Finding]:
    lines = [[line.strip() for line in rating.prompt.splitlines() if line.strip()] for rating in ratings]
    shared = _lines_of_other_classes(ratings, lines)
    stating = [
        rating
        for rating, own in zip(ratings, lines, strict=True)
        if any(rating.value in _stated(line, scale) and (line, rating.value) not in shared for line in own)
    ]
    yield from _finding(
        "rating_in_prompt",
        "error",
        stating,
        "{n} prompts state their own rating; remove it, or the model learns to copy it",
    )
    specific = specific_lines([rating.prompt for rating in ratings])
    quoted = [rating for rating, own in zip(ratings, specific, strict=True) if _quotes(own, rating.rationale)]
    yield from _finding(
        "rationale_in_prompt",
        "warning",
        quoted,
        "{n} prompts contain their own rationale; remove it unless it is known when a new row is rated",
    )


def _lines_of_other_classes(ratings: Sequence[Rating], lines: Sequence[Sequence[str]]) -> set[tuple[str, int]]:
    """Find the (line, value) whose line is also in most rows of other values: task and schema, not a leak.

    A leaked "Rating: 1" may be in most rows, but hardly in those with another rating.
    """
    rows = Counter(rating.value for rating in ratings)
    counts_of: dict[str, Counter[int]] = defaultdict(Counter)
    for rating, own in zip(ratings, lines, strict=True):
        for line in set(own):
            counts_of[line][rating.value] += 1
    return {
        (line, value)
        for line, counts in counts_of.items()
        for value in rows
        if counts.total() - counts[value] > (rows.total() - rows[value]) / 2
    }


def _stated(line: str, scale: RatingScale) -> set[int]:
    """Return the ratings that a line states, as "Rating: 1", "Rated as Match" or "label = Match, because …"."""
    found: set[int] = set()
    for match in _STATED.finditer(line):
        rest = match["rating"]
        pieces = (
            rest,
            re.sub(r"^(?:[-=]?>|[=→\s])+", "", rest),
            re.split(r"""[,;.("'}*]|\s[-–]\s""", rest, maxsplit=1)[0],
        )
        found.update(value for piece in pieces if (value := scale.value_of(piece)) is not None)
    return found


def _quotes(own_lines: Sequence[str], rationale: str) -> bool:
    sought = words(rationale)
    if len(sought) < _QUOTED_WORDS:
        return False
    text = " ".join(word for line in own_lines for word in words(line))
    return f" {' '.join(sought)} " in f" {text} "


def _missing_rationales(ratings: Sequence[Rating]) -> Iterator[Finding]:
    yield from _finding(
        "missing_rationales",
        "info",
        (rating for rating in ratings if not rating.rationale),
        "{n} rows have no rationale; only their rating is learned",
    )
