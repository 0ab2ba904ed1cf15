"""Linear opinion pool: several raters' probabilities as one, and the weights for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHRINK_ROWS = 20  # equal weights count as much as this many dev rows
MOST_POINTS = 3000
LEAST = 1e-9  # a probability of 0 has no logarithm


def pool(shares: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> tuple[float, ...]:
    """The weighted mean of the members' probabilities (linear opinion pool, Stone 1961), summing to 1."""
    mixed_K = sum((weights[name] * np.asarray(shares[name], dtype=np.float64) for name in weights), np.float64(0))
    return tuple(float(each) for each in np.asarray(mixed_K / np.sum(mixed_K)))


def fit_weights(share_MNK: Floats, truth_N: NDArray[np.intp]) -> Floats:
    """Weights (members) with the least log-loss on the simplex's grid; the fewer rows, the nearer to equal ones.

    `share_MNK` are the members' probabilities of each row and label, `truth_N` the index of each row's true label.
    """
    members, rows = share_MNK.shape[:2]
    equal_M = np.full(members, 1 / members)
    if members == 1 or rows == 0:
        return equal_M
    own_MN = share_MNK[:, np.arange(rows), truth_N]
    grid_WM = _simplex(members)
    loss_W = -np.log(np.maximum(grid_WM @ own_MN, LEAST)).mean(axis=1)
    kept = rows / (rows + SHRINK_ROWS)
    return kept * grid_WM[int(loss_W.argmin())] + (1 - kept) * equal_M


def _simplex(members: int) -> Floats:
    """Points of an even grid with weights that sum to 1, as fine as MOST_POINTS allows."""
    steps = max((each for each in range(1, 21) if math.comb(each + members - 1, members - 1) <= MOST_POINTS), default=1)
    cuts = itertools.combinations(range(steps + members - 1), members - 1)
    parts = [np.diff([-1, *cut, steps + members - 1]) - 1 for cut in cuts]
    return np.asarray(parts, dtype=np.float64) / steps


def logs(shares: Sequence[Sequence[float]]) -> Floats:
    """Natural logarithms of probabilities (rows, labels)."""
    return np.log(np.maximum(np.asarray(shares, dtype=np.float64), LEAST))


def tempered(log_NK: Floats, temperature: float, bias_K: Floats) -> Floats:
    """Probabilities (rows, labels) under a calibration: softmax(log(probability) / temperature + bias)."""
    score_NK = log_NK / temperature + bias_K
    weight_NK = np.exp(score_NK - score_NK.max(axis=1, keepdims=True))
    return weight_NK / weight_NK.sum(axis=1, keepdims=True)
