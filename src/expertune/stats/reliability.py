"""Reliability curve: a probability of 0.8 should be right eight times in ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import Estimate, wilson

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The rows whose top label has a probability in (low, high]; `confidence` is the mean of it."""

    low: float
    high: float
    confidence: float | None
    accuracy: Estimate


@dataclass(frozen=True)
class ReliabilityCurve:
    """`brier` is the mean squared error over all labels, from 0 (sure and right) to 2 (sure and wrong; Brier 1950).

    `expected_error` is the gap between confidence and accuracy, averaged over equal-width bins by their rows
    (Naeini et al. 2015); `bins` are the points of the reliability diagram, each with its number of rows.
    """

    brier: float | None
    expected_error: float | None
    bins: tuple[Bin, ...]


def calibrate(
    truth: Sequence[int], probabilities: Sequence[Sequence[float]], confidence: float = 0.95
) -> ReliabilityCurve:
    """Calibration of `probabilities` (rows, labels) against the index of each row's true label."""
    if not truth:
        return ReliabilityCurve(None, None, ())
    share_NK = np.asarray(probabilities, dtype=np.float64)
    true_N = np.asarray(truth, dtype=np.intp)
    top_N = share_NK.max(axis=1)
    right_N = share_NK.argmax(axis=1) == true_N
    brier = np.square(share_NK - np.eye(share_NK.shape[1])[true_N]).sum(axis=1).mean()
    # a bin holds its upper end: a probability of exactly 1 belongs to the last one
    bin_N = np.clip(np.ceil(top_N * BINS).astype(int) - 1, 0, BINS - 1)
    bins = tuple(_bin(at, top_N[bin_N == at], right_N[bin_N == at], confidence) for at in range(BINS))
    gap = sum(
        each.accuracy.n * abs(each.confidence - each.accuracy.value)
        for each in bins
        if each.confidence is not None and each.accuracy.value is not None
    )
    return ReliabilityCurve(float(brier), float(gap / len(truth)), bins)


def _bin(at: int, top_N: np.ndarray, right_N: np.ndarray, confidence: float) -> Bin:
    mean = float(top_N.mean()) if len(top_N) else None
    return Bin(at / BINS, (at + 1) / BINS, mean, wilson(int(right_N.sum()), len(right_N), confidence))
