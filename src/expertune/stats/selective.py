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
    for threshold in _sequence(chosen_on, len(tested_on.wrong_N), max_error):
        found = _tested(float(threshold), tested_on, groups, confidence)
        if found is None or found.error_bound > max_error:
            break
        proved = found
    return proved


def fewest_records(max_error: float, confidence: float) -> int:
    """Records without an error that prove the error rate: 59 for 5 % with 95 % confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_error))


def _sequence(chosen_on: Outcomes, tested: int, max_error: float) -> Floats:
    """Candidate thresholds, each lower than the one before, from the one that is most likely to be proved."""
    from scipy.stats import binom

    threshold_C = np.unique(chosen_on.confidence_N)[::-1]
    if not len(threshold_C):
        return threshold_C
    accepted_C = (chosen_on.confidence_N >= threshold_C[:, None]).sum(axis=1)
    wrong_C = ((chosen_on.confidence_N >= threshold_C[:, None]) & chosen_on.wrong_N).sum(axis=1)
    expected_C = np.floor(tested * accepted_C / len(chosen_on.wrong_N))
    p_value_C = binom.cdf(np.floor(expected_C * wrong_C / accepted_C), expected_C, max_error)
    return threshold_C[int(np.argmin(p_value_C)) :]


def _tested(threshold: float, rated: Outcomes, groups: Sequence[Hashable], confidence: float) -> Selection | None:
    """Shares at a threshold; None where no record reaches it."""
    accepted_N = rated.confidence_N >= threshold
    if not accepted_N.any():
        return None
    every_N = np.ones(len(accepted_N))
    accepted_G, rows_G = group_sums(accepted_N.astype(np.float64), groups)[0], group_sums(every_N, groups)[0]
    wrong_G = group_sums((accepted_N & rated.wrong_N).astype(np.float64), groups)[0]
    error = wilson_clustered(wrong_G, accepted_G, confidence)
    share = wilson_clustered(accepted_G, rows_G, confidence)
    return Selection(threshold, share, error, _upper_bound(error, confidence))


def _upper_bound(error: Estimate, confidence: float) -> float:
    """One-sided Clopper-Pearson bound, of the effective number of records (Korn and Graubard 1998)."""
    from scipy.stats import beta

    records = error.effective_n or float(error.n)
    wrong = (error.value or 0.0) * records
    return 1.0 if wrong >= records else float(beta.ppf(confidence, wrong + 1, records - wrong))
