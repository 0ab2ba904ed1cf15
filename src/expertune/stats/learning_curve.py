"""Learning curve: how good a rater is that learned from 25, 50, 75 and 100 % of the records, by cross-validation.

The gain of more ratings is extrapolated by an inverse power law, macro-F1 = a - b · records ** -c (Figueroa et al.
2012, BMC Medical Informatics and Decision Making 12: 8). Four points do not determine c: the figure is that of c = 1/2,
and the interval spans those of c from 0 (the logarithm: gains that go on) to 1 (gains that end soon). In simulations
c = 0 promised twice the true gain and c = 1 half of it (docs/LOG.md).

Axes: N record · M record to rate · K label · P point of the curve · B bootstrap resample.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .folds import FOLDS, group_folds
from .intervals import (
    MACRO_F1,
    Estimate,
    Interval,
    bootstrap_interval,
    clusters,
    group_sums,
    mean_clustered,
    resamples,
)
from .metrics import Floats, defined, log_loss, macro_f1

SHARES = (0.25, 0.5, 0.75, 1.0)
EXPONENTS = (0.5, 0.0, 1.0)  # that of the figure, and the ends of the range
FEWEST_RECORDS, FEWEST_GROUPS = 50, 2 * FOLDS  # a quarter of four fifths of them is ten
MORE = 100

Indices = NDArray[np.intp]
# Of records to learn from, with two labels or more, and records to rate: the probabilities_MK of these
Predict = Callable[[Indices, Indices], Floats]


@dataclass(frozen=True)
class CurvePoint:
    """A rater that learned from `records` records (the mean over the folds), on the records of the other fold."""

    records: int
    macro_f1: Estimate
    log_loss: Estimate


@dataclass(frozen=True)
class ExpectedGain:
    """Macro-F1 that `more` ratings should add to the `records` of now; `clear` if its interval is above 0."""

    records: int
    more: int
    macro_f1: Estimate
    clear: bool


@dataclass(frozen=True)
class LearningCurve:
    """Curve of one rater; `gain` is None where nothing varies along it."""

    rater: str
    points: tuple[CurvePoint, ...]
    gain: ExpectedGain | None

    def line(self) -> str:
        """Say in one line what the curve shows and what more ratings should bring."""
        first, last = self.points[0], self.points[-1]
        shown = f"{_f1(first)} with {first.records} records, {_f1(last)} with {last.records}"
        return f"Learning curve ({self.rater}, cross-validated macro-F1): {shown}; {self.gain_text()}"

    def gain_text(self) -> str:
        """Say what more ratings should bring."""
        gain = self.gain
        if gain is None or gain.macro_f1.interval is None or gain.macro_f1.value is None:
            return "what more ratings would bring cannot be estimated"
        interval = gain.macro_f1.interval
        size = f"{gain.macro_f1.value:+.3f} [{interval.low:+.3f} to {interval.high:+.3f}]"
        if gain.clear:
            return f"{gain.more} more ratings should change it by {size}"
        return f"no clear gain from {gain.more} more ratings ({size})"


def _f1(point: CurvePoint) -> str:
    return "undefined" if point.macro_f1.value is None else f"{point.macro_f1.value:.3f}"


def learning_curve(
    rater: str,
    predict: Predict,
    label_N: Sequence[int],
    labels: int,
    groups: Sequence[Hashable],
    *,
    seed: int,
    count: int,
    confidence: float,
) -> LearningCurve | None:
    """Cross-validate the rater at each share of the records; None for too few records or groups.

    `label_N` are label indices; records of one of the `groups` are never divided; `count` is of bootstrap resamples.
    """
    names = [repr(group) for group in groups]
    if len(label_N) < FEWEST_RECORDS or len(set(names)) < FEWEST_GROUPS:
        return None
    fold_N, rank_N = group_folds(names, seed), _random_ranks(names, seed)
    predicted = [_out_of_fold(predict, np.asarray(label_N), fold_N, rank_N, share, labels) for share in SHARES]
    raters = [clusters(label_N, shares_NK.argmax(axis=1).tolist(), labels, groups) for shares_NK, _ in predicted]
    value_P = np.array([float(macro_f1(each.total_TP)) for each in raters])
    value_PB = resamples(raters, [MACRO_F1], count, seed)[:, 0]
    interval = partial(bootstrap_interval, groups=len(raters[0].counts_GTP), confidence=confidence)
    points = []
    for value, value_B, (shares_NK, records) in zip(value_P, value_PB, predicted, strict=True):
        f1 = Estimate(defined(value), interval(defined(value), value_B, (0.0, 1.0)), len(label_N))
        loss = mean_clustered(*group_sums(log_loss(label_N, shares_NK.tolist()), groups), confidence)
        points.append(CurvePoint(records, f1, loss))
    records_P = np.array([each.records for each in points], dtype=np.float64)
    return LearningCurve(rater, tuple(points), _gain(records_P, value_P, value_PB, len(label_N), interval))


def _random_ranks(names: Sequence[str], seed: int) -> Indices:
    """Rank of each record's group in a random order: a share of the records is those of the lowest ranks."""
    order = sorted(set(names))
    rank_G = np.random.default_rng(seed).permutation(len(order))
    rank_of = dict(zip(order, rank_G.tolist(), strict=True))
    return np.array([rank_of[name] for name in names], dtype=np.intp)


def _out_of_fold(
    predict: Predict, label_N: Indices, fold_N: Indices, rank_N: Indices, share: float, labels: int
) -> tuple[Floats, int]:
    """Probabilities of each record by a rater that learned from a share of the other folds, and that number.

    Every label counts as seen in one record more: one that the share lacks has no probability of 0.
    """
    share_NK, learned = np.zeros((len(fold_N), labels)), []
    for fold in range(FOLDS):
        rest = np.flatnonzero(fold_N != fold)
        ordered = rest[np.argsort(rank_N[rest], kind="stable")]
        last = ordered[max(1, round(share * len(ordered))) - 1]
        known = ordered[rank_N[ordered] <= rank_N[last]]  # whole groups
        out = np.flatnonzero(fold_N == fold)
        one_label = len(np.unique(label_N[known])) < 2
        rated_MK = np.eye(labels)[[label_N[known[0]]] * len(out)] if one_label else predict(known, out)
        share_NK[out] = (rated_MK * len(known) + 1) / (len(known) + labels)
        learned.append(len(known))
    return share_NK, round(float(np.mean(learned)))


def _gain(
    records_P: Floats, value_P: Floats, value_PB: Floats, records: int, interval: Callable[..., Interval | None]
) -> ExpectedGain | None:
    """Extrapolate from `records` to at most twice as many."""
    if np.ptp(records_P) == 0:
        return None
    more = min(MORE, records)
    weight_EP = [_weights(records_P, records, more, exponent) for exponent in EXPONENTS]
    found = [interval(float(weight_P @ value_P), weight_P @ value_PB, (-1.0, 1.0)) for weight_P in weight_EP]
    ends = [each for each in found if each is not None]
    if len(ends) < len(found) or not np.isfinite(value_P).all():
        return None
    span = Interval(
        min(each.low for each in ends),
        max(each.high for each in ends),
        f"{ends[0].method}; exponents from 0 to 1",
        ends[0].confidence,
    )
    return ExpectedGain(records, more, Estimate(float(weight_EP[0] @ value_P), span, records), span.low > 0)


def _weights(records_P: Floats, records: int, more: int, exponent: float) -> Floats:
    """Weights of the points' values in the gain: the least-squares slope times the step of the power law."""

    def law(number: Floats) -> Floats:
        return np.log(number) if exponent == 0 else -(number**-exponent)

    apart_P = law(records_P) - law(records_P).mean()
    now, then = law(np.array([records, records + more], dtype=np.float64))
    return apart_P / (apart_P @ apart_P) * (then - now)
