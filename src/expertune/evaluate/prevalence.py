"""Predictive values (PPV, NPV) by prevalence.

Computed by Bayes' theorem from sensitivity and specificity, which are assumed constant. Intervals as in Mercaldo, Lau
and Zhou (Statistics in Medicine 2007, 26: 2170): the delta method on the logit scale, with z²/2 added to the hits and
misses of both proportions, so that intervals exist at 0 and 1 too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ..stats.intervals import Estimate, Interval
from .compare import ClassResult, Evaluation

LOWEST, HIGHEST, POINTS = 0.001, 0.5, 28  # of the curve: 0.1 % to 50 %, evenly on a logarithmic scale


@dataclass(frozen=True)
class PrevalencePoint:
    """PPV of a label at a `prevalence`, with its interval."""

    prevalence: float
    ppv: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelPrevalence:
    """PPV and NPV of one label at `prevalence`; `in_test` is its prevalence in the test records."""

    label: str
    in_test: float
    prevalence: float
    ppv: Estimate
    npv: Estimate
    curve: tuple[PrevalencePoint, ...]


@dataclass(frozen=True)
class PrevalenceTable:
    """Predictive values of one rater; `stated` is the requested prevalence, 0 for each label's in the test records."""

    stated: float
    rater: str
    labels: tuple[LabelPrevalence, ...]


def predictive_values(
    sensitivity: Estimate, specificity: Estimate, prevalence: float, confidence: float
) -> tuple[Estimate, Estimate]:
    """PPV and NPV at 0 < `prevalence` < 1; undefined if sensitivity or specificity is."""
    if sensitivity.value is None or specificity.value is None:
        return Estimate(None, None, 0), Estimate(None, None, 0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    (true_share, true_n), (false_share, false_n) = _added(sensitivity, z), _added(specificity, z)
    odds = math.log(prevalence / (1 - prevalence))
    right, wrong = math.log(true_share / (1 - false_share)), math.log(false_share / (1 - true_share))
    spread = math.sqrt((1 - true_share) / (true_share * true_n) + false_share / ((1 - false_share) * false_n))
    spread_npv = math.sqrt(true_share / ((1 - true_share) * true_n) + (1 - false_share) / (false_share * false_n))
    hit, reject = sensitivity.value, specificity.value
    rows = sensitivity.n + specificity.n
    return (
        _estimate(prevalence * hit, (1 - prevalence) * (1 - reject), odds + right, z * spread, rows, confidence),
        _estimate((1 - prevalence) * reject, prevalence * (1 - hit), wrong - odds, z * spread_npv, rows, confidence),
    )


def _added(share: Estimate, z: float) -> tuple[float, float]:
    """Proportion with z²/2 hits and misses added (Agresti and Coull 1998), and its sample size."""
    n = share.effective_n or share.n
    return ((share.value or 0.0) * n + z * z / 2) / (n + z * z), n + z * z


def _estimate(right: float, wrong: float, logit: float, reach: float, rows: int, confidence: float) -> Estimate:
    if right + wrong == 0:
        return Estimate(None, None, rows)
    value = right / (right + wrong)
    low, high = (0.5 + 0.5 * math.tanh(x / 2) for x in (logit - reach, logit + reach))
    # the added counts shift the centre, so at 0 or 1 the value itself may be outside the interval
    return Estimate(value, Interval(min(low, value), max(high, value), "delta, logit scale", confidence), rows)


def at_prevalence(evaluation: Evaluation, stated: float | None) -> PrevalenceTable:
    """Predictive values of a rater; without `stated` at each label's prevalence in the test records."""
    labels = tuple(_label(evaluation, each, stated) for each in evaluation.per_class)
    return PrevalenceTable(stated or 0.0, evaluation.name, labels)


def _label(evaluation: Evaluation, result: ClassResult, stated: float | None) -> LabelPrevalence:
    interval = evaluation.accuracy.interval
    confidence = interval.confidence if interval else 0.95
    share = result.support / evaluation.rows
    at = stated or share
    undefined = Estimate(None, None, 0)
    shares = (result.sensitivity, result.specificity)
    ppv, npv = predictive_values(*shares, at, confidence) if 0 < at < 1 else (undefined, undefined)
    return LabelPrevalence(result.label, share, at, ppv, npv, _curve(result, confidence))


def _curve(result: ClassResult, confidence: float) -> tuple[PrevalencePoint, ...]:
    points, ratio = [], HIGHEST / LOWEST
    for step in range(POINTS):
        at = LOWEST * ratio ** (step / (POINTS - 1))
        ppv, _ = predictive_values(result.sensitivity, result.specificity, at, confidence)
        if ppv.value is not None and ppv.interval is not None:
            points.append(PrevalencePoint(at, ppv.value, ppv.interval.low, ppv.interval.high))
    return tuple(points)
