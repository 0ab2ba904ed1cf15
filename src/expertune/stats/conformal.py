"""The labels that cannot be ruled out, with a stated chance to hold the true one, for each label on its own.

Split conformal prediction conditional on the label (Mondrian; Vovk, Gammerman and Shafer 2005, section 4.5): of the n
dev rows whose true label is k, the threshold is the floor((n + 1)(1 - coverage))-th smallest probability that they were
given for k. A new row of label k, drawn as they were, then has k in its set with at least the stated coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

COVERAGE = 0.9


@dataclass(frozen=True)
class Conformal:
    """`thresholds`, `rows` (validation rows of the label) and `exact` are in the order of `labels`.

    Where `exact` is False the label had too few rows, and its threshold is a plain one: 1 - coverage.
    """

    coverage: float
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    rows: tuple[int, ...]
    exact: tuple[bool, ...]

    def labels_for(self, probabilities: Sequence[float]) -> tuple[str, ...]:
        """The labels that one row's uncalibrated probabilities do not rule out; none, one or several."""
        pairs = zip(self.labels, probabilities, self.thresholds, strict=True)
        return tuple(label for label, probability, threshold in pairs if probability >= threshold)

    def notes(self) -> list[str]:
        """A line for each label whose coverage is not assured."""
        return [
            f'"{label}": {rows} validation records are too few for a coverage of {self.coverage:.0%} '
            f"({fewest_rows(self.coverage)} are needed); a plain threshold of {threshold:.2f} is used"
            for label, rows, threshold, exact in zip(self.labels, self.rows, self.thresholds, self.exact, strict=True)
            if not exact
        ]


def fewest_rows(coverage: float) -> int:
    """The least n with (n + 1)(1 - coverage) >= 1; with fewer rows only the set of all labels would be sure."""
    return math.ceil(_exactly(1 / (1 - coverage))) - 1


def fit_conformal(
    probabilities: Sequence[Sequence[float]], truth: Sequence[int], labels: Sequence[str], *, coverage: float = COVERAGE
) -> Conformal:
    """Thresholds from validation rows: `probabilities` (rows, labels) and the index of each row's true label."""
    thresholds, counts, exact = [], [], []
    for k in range(len(labels)):
        own = sorted(row[k] for row, true in zip(probabilities, truth, strict=True) if true == k)
        rank = math.floor(_exactly((len(own) + 1) * (1 - coverage)))
        exact.append(rank >= 1)
        counts.append(len(own))
        thresholds.append(float(own[rank - 1]) if rank >= 1 else round(1 - coverage, 9))
    return Conformal(coverage, tuple(labels), tuple(thresholds), tuple(counts), tuple(exact))


def _exactly(number: float) -> float:
    """10 * (1 - 0.9) is 0.99…98 in binary, and must count as 1."""
    return round(number, 9)
