"""Prevalence of each label in a rated file, corrected for the errors that the rater made on the test records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..stats.intervals import Estimate
from ..stats.misclassification import corrected_shares
from .compare import Evaluation

FEWEST_RECORDS = 5  # of a label in the test records: with fewer nothing is known about its errors


@dataclass(frozen=True)
class LabelShare:
    """Share of a label in a rated file: as predicted, and corrected."""

    label: str
    predicted: float
    corrected: Estimate


@dataclass(frozen=True)
class RatedPrevalence:
    """Shares of the labels in a rated file; none, and a `note` that says why, where they cannot be corrected."""

    labels: tuple[LabelShare, ...]
    note: str

    def line(self) -> str:
        """Say the corrected shares in one line; empty without any."""
        return "; ".join(_said(each) for each in self.labels)


def rated_prevalence(evaluation: Evaluation, predicted: Mapping[str, int], seed: int) -> RatedPrevalence | None:
    """Correct the `predicted` number of records of each label by the rater's evaluation on the test records.

    Counts of patients with several records are lowered by the design effect. None without a rated record.
    """
    rows = [each for each in evaluation.per_class if each.support or predicted.get(each.label)]
    if not sum(predicted.values()):
        return None
    if few := [each for each in rows if each.support < FEWEST_RECORDS]:
        shown = ", ".join(f"{each.label} {each.support}" for each in few)
        note = f"prevalence is not corrected for the rater's errors: too few test records ({shown})"
        return RatedPrevalence((), note)
    kept = [evaluation.labels.index(each.label) for each in rows]
    counts_TP = np.array(evaluation.confusion, dtype=np.float64)[np.ix_(kept, kept)]
    weight_T = [(each.sensitivity.effective_n or each.support) / each.support for each in rows]
    predicted_P = np.array([predicted.get(each.label, 0) for each in rows], dtype=np.float64)
    level = evaluation.accuracy.interval.confidence if evaluation.accuracy.interval else 0.95
    found = corrected_shares(counts_TP * np.array(weight_T)[:, None], predicted_P, seed=seed, confidence=level)
    labels = [
        LabelShare(each.label, count / predicted_P.sum(), share)
        for each, count, share in zip(rows, predicted_P.tolist(), found, strict=True)
    ]
    note = (
        f"the corrected prevalence presumes that these records are like the {evaluation.rows} test records: "
        "that the rater errs as often within each label"
    )
    return RatedPrevalence(tuple(labels), note)


def _said(each: LabelShare) -> str:
    interval = each.corrected.interval
    span = f" [{100 * interval.low:.1f} to {100 * interval.high:.1f}]" if interval else ""
    return f"{each.label} {100 * (each.corrected.value or 0):.1f} %{span}, predicted {100 * each.predicted:.1f} %"
