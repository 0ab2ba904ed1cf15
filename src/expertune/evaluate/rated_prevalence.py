"""Prevalence of each label in a rated file, corrected for the errors that the rater made on the test records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..stats.intervals import Estimate
from ..stats.misclassification import corrected_shares
from .compare import Evaluation

FEWEST_RECORDS = 5  # of a label in the test records: with fewer nothing is known about its errors
WIDEST = 0.9  # width of an interval that still says something
MORE = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # times as many test records, tried in turn
NOT_CORRECTED = "prevalence is not corrected for the rater's errors"


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
        needed = f"{FEWEST_RECORDS} of each label are needed"
        return RatedPrevalence((), f"{NOT_CORRECTED}: too few test records ({shown}), {needed}")
    kept = [evaluation.labels.index(each.label) for each in rows]
    counts_TP = np.array(evaluation.confusion, dtype=np.float64)[np.ix_(kept, kept)]
    weight_T = [(each.sensitivity.effective_n or each.support) / each.support for each in rows]
    predicted_P = np.array([predicted.get(each.label, 0) for each in rows], dtype=np.float64)
    level = evaluation.accuracy.interval.confidence if evaluation.accuracy.interval else 0.95
    counts_TP *= np.array(weight_T)[:, None]
    corrected = partial(corrected_shares, predicted_P=predicted_P, seed=seed, confidence=level)
    found = corrected(counts_TP)
    if _too_wide(found):
        enough = next((times for times in MORE if not _too_wide(corrected(counts_TP * times))), None)
        return RatedPrevalence((), _too_small(evaluation.rows, enough))
    labels = [
        LabelShare(each.label, count / predicted_P.sum(), share)
        for each, count, share in zip(rows, predicted_P.tolist(), found, strict=True)
    ]
    note = (
        f"the corrected prevalence presumes that these records are like the {evaluation.rows} test records: "
        "that the rater errs as often within each label"
    )
    return RatedPrevalence(tuple(labels), note)


def _too_wide(found: Sequence[Estimate]) -> bool:
    return any(each.interval and each.interval.high - each.interval.low > WIDEST for each in found)


def _too_small(tested: int, times: float | None) -> str:
    """The reason, and how many test records would be enough if the rater erred as often on them."""
    if times is None:
        return (
            f"{NOT_CORRECTED}: nearly every share of a label is possible, with {MORE[-1]} times as many test records "
            "too; the rater errs too often, or too few records were rated"
        )
    enough = 10 * math.ceil(tested * times / 10)
    return (
        f"{NOT_CORRECTED}: with {tested} test records nearly every share of a label is possible; about {enough} would "
        "be enough (by default every fifth expert-rated record is a test record)"
    )


def _said(each: LabelShare) -> str:
    interval = each.corrected.interval
    span = f" [{100 * interval.low:.1f} to {100 * interval.high:.1f}]" if interval else ""
    return f"{each.label} {100 * (each.corrected.value or 0):.1f} %{span}, predicted {100 * each.predicted:.1f} %"
