"""What a rating is worth where the condition is rarer, or commoner, than in the test rows.

By Bayes from sensitivity and specificity, which are taken to stay as they are. The intervals are those of Mercaldo, Lau
and Zhou (Statistics in Medicine 2007, 26: 2170): the delta method on the logit scale, with half a z squared added to
the hits and misses of both shares, so that there is an interval at 0 and at 1 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

from ..stats.intervals import Estimate, Interval

LOWEST, HIGHEST, POINTS = 0.001, 0.5, 28  # of the curve: 0.1 % to 50 %, evenly on a logarithmic scale
Share = Mapping[str, Any]  # an Estimate as a mapping


def predictive_values(
    sensitivity: Share, specificity: Share, prevalence: float, confidence: float
) -> tuple[Estimate, Estimate]:
    """PPV and NPV at a `prevalence` between 0 and 1 (neither of them); undefined where one of the two shares is."""
    if sensitivity["value"] is None or specificity["value"] is None:
        return Estimate(None, None, 0), Estimate(None, None, 0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    (true_share, true_n), (false_share, false_n) = _added(sensitivity, z), _added(specificity, z)
    odds = math.log(prevalence / (1 - prevalence))
    right, wrong = math.log(true_share / (1 - false_share)), math.log(false_share / (1 - true_share))
    spread = math.sqrt((1 - true_share) / (true_share * true_n) + false_share / ((1 - false_share) * false_n))
    spread_npv = math.sqrt(true_share / ((1 - true_share) * true_n) + (1 - false_share) / (false_share * false_n))
    hit, reject = sensitivity["value"], specificity["value"]
    rows = sensitivity["n"] + specificity["n"]
    return (
        _estimate(prevalence * hit, (1 - prevalence) * (1 - reject), odds + right, z * spread, rows, confidence),
        _estimate((1 - prevalence) * reject, prevalence * (1 - hit), wrong - odds, z * spread_npv, rows, confidence),
    )


def _added(share: Share, z: float) -> tuple[float, float]:
    """The share with z²/2 hits and misses added (Agresti and Coull 1998), and its number of rows then."""
    n = share.get("effective_n") or share["n"]
    return (share["value"] * n + z * z / 2) / (n + z * z), n + z * z


def _estimate(right: float, wrong: float, logit: float, reach: float, rows: int, confidence: float) -> Estimate:
    if right + wrong == 0:
        return Estimate(None, None, rows)
    value = right / (right + wrong)
    low, high = (0.5 + 0.5 * math.tanh(x / 2) for x in (logit - reach, logit + reach))
    # the added rows move the middle: at 0 or 1 the figure itself may lie outside
    return Estimate(value, Interval(min(low, value), max(high, value), "delta, logit scale", confidence), rows)


def at_prevalence(evaluation: Mapping[str, Any], stated: float | None) -> dict[str, Any]:
    """The report's part `prevalence`, from an Evaluation's mapping; without `stated` each label's share of the rows."""
    confidence = evaluation["accuracy"]["interval"]["confidence"]
    labels = []
    for each in evaluation["per_class"]:
        share = each["support"] / evaluation["rows"]
        at = stated or share
        sound = 0 < at < 1
        ppv, npv = (
            predictive_values(each["sensitivity"], each["specificity"], at, confidence)
            if sound
            else (Estimate(None, None, 0), Estimate(None, None, 0))
        )
        labels.append(
            {
                "label": each["label"],
                "in_test": share,
                "prevalence": at,
                "ppv": asdict(ppv),
                "npv": asdict(npv),
                "curve": _curve(each, confidence),
            }
        )
    return {"stated": stated or 0.0, "rater": evaluation["name"], "labels": labels}


def _curve(found: Mapping[str, Any], confidence: float) -> list[dict[str, float]]:
    points = []
    for at in _steps():
        ppv, _ = predictive_values(found["sensitivity"], found["specificity"], at, confidence)
        if ppv.value is not None and ppv.interval is not None:
            points.append({"prevalence": at, "ppv": ppv.value, "low": ppv.interval.low, "high": ppv.interval.high})
    return points


def _steps() -> Sequence[float]:
    ratio = HIGHEST / LOWEST
    return [LOWEST * ratio ** (at / (POINTS - 1)) for at in range(POINTS)]
