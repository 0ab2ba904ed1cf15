"""Selective classification: accept a rating without a person where its confidence reaches a threshold.

The threshold is proved by learn-then-test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052): split
fixed-sequence testing. One set of records gives candidate thresholds and the order in which they are tried, the other
one tests them: "the error rate above this threshold exceeds the stated one" is refuted where the upper bound of
Clopper and Pearson is no higher, as in Geifman and El-Yaniv (NeurIPS 2017). The first threshold that is not
refuted ends the sequence, so that all tests together are wrong no more often than one of them.

Axes: N record · C candidate threshold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import Estimate, group_sums, wilson_clustered
from .metrics import Floats

Bools = NDArray[np.bool_]
_NEAR_BEST = 0.95  # of the greatest chance to be proved; any value keeps the guarantee


@dataclass(frozen=True)
class Outcomes:
    """Confidence of each record's rating, and whether it was wrong."""

    confidence_N: Floats
    wrong_N: Bools


@dataclass(frozen=True)
class Selection:
    """Threshold that was proved; `share` of the records reach it, `error` is the share of wrong ones among them.

    `error_bound` is the one-sided upper bound of the error rate.
    """

    threshold: float
    share: Estimate
    error: Estimate
    error_bound: float


def select(
    chosen_on: Outcomes, tested_on: Outcomes, groups: Sequence[Hashable], *, max_error: float, confidence: float
) -> Selection | None:
    """The lowest threshold that is proved; None if there is none. `groups` are those of the records tested on."""
    proved = None
    for threshold in _sequence(chosen_on, len(tested_on.wrong_N), max_error, confidence):
        accepted_N = tested_on.confidence_N >= threshold
        error = _share(tested_on.wrong_N, accepted_N, groups, confidence)
        bound = _upper_bound(error, confidence)
        if bound > max_error:
            break
        proved = float(threshold), accepted_N, error, bound
    if proved is None:
        return None
    threshold, accepted_N, error, bound = proved
    share = _share(accepted_N, np.ones(len(accepted_N), dtype=np.bool_), groups, confidence)
    return Selection(threshold, share, error, bound)


def fewest_records(max_error: float, confidence: float) -> int:
    """Records without an error that prove the error rate: 59 for 5 % with 95 % confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_error))


def _sequence(chosen_on: Outcomes, tested: int, max_error: float, confidence: float) -> Floats:
    """Candidate thresholds, each lower than the one before.

    The first is the highest one whose chance to be proved is nearly the greatest: the predictive probability of few
    enough errors (beta-binomial, Jeffreys prior). Any order that the records tested on do not decide is allowed.
    """
    from scipy.stats import betabinom, binom

    threshold_C = np.unique(chosen_on.confidence_N)[::-1]
    if not len(threshold_C):
        return threshold_C
    accepted_CN = chosen_on.confidence_N >= threshold_C[:, None]
    accepted_C, wrong_C = accepted_CN.sum(axis=1), (accepted_CN & chosen_on.wrong_N).sum(axis=1)
    expected_C = np.floor(tested * accepted_C / len(chosen_on.wrong_N))
    errors_C = binom.ppf(1 - confidence, expected_C, max_error) - 1  # the most that still prove it
    chance_C = betabinom.cdf(errors_C, expected_C, wrong_C + 0.5, accepted_C - wrong_C + 0.5)
    return threshold_C[int(np.argmax(chance_C >= _NEAR_BEST * chance_C.max())) :]


def _share(hit_N: Bools, among_N: Bools, groups: Sequence[Hashable], confidence: float) -> Estimate:
    hits_G, rows_G = (group_sums(each_N.astype(np.float64), groups)[0] for each_N in (hit_N & among_N, among_N))
    return wilson_clustered(hits_G, rows_G, confidence)


def _upper_bound(error: Estimate, confidence: float) -> float:
    """One-sided Clopper-Pearson bound, of the effective number of records (Korn and Graubard 1998)."""
    from scipy.stats import beta

    records = error.effective_n or float(error.n)  # 0 where no record reaches the threshold
    wrong = (error.value or 0.0) * records
    return 1.0 if wrong >= records else float(beta.ppf(confidence, wrong + 1, records - wrong))
