"""Prevalence of the true labels among records that a rater with known errors has rated.

The shares of the predicted labels are those of the true ones times the rater's confusion matrix; solving for the true
ones is the estimator of Rogan and Gladen (American Journal of Epidemiology 1978, 107: 71), for any number of labels.
The point estimate is the likeliest one without negative shares, by EM. The interval has both uncertainties: matrix and
predicted shares are drawn from their Dirichlet distributions (Jeffreys prior), each draw is solved, and the interval
is that of the percentiles. It presumes that the rater errs within each true label as often as on the test records; how
common the labels are may differ.

Axes: T true label · P predicted label · B draw.
"""

from __future__ import annotations

import numpy as np

from .intervals import Estimate, Interval
from .metrics import Floats

DRAWS = 2000
_JEFFREYS = 0.5
_STEPS, _NEAR = 2000, 1e-7  # of the EM, which converges slowly where the rater errs often


def corrected_shares(counts_TP: Floats, predicted_P: Floats, *, seed: int, confidence: float) -> list[Estimate]:
    """Share of each true label, from the rater's confusion counts and its predictions of the new records.

    Every label needs test records (a row of `counts_TP` that is not empty), and at least one record must be rated.
    """
    values_T = _likeliest(counts_TP / counts_TP.sum(axis=1, keepdims=True), predicted_P)
    random = np.random.default_rng(seed)
    matrix_BTP = _dirichlet(random, counts_TP)
    share_BP = _dirichlet(random, predicted_P)
    solved_BT = np.linalg.solve(np.swapaxes(matrix_BTP, 1, 2), share_BP[:, :, None])[:, :, 0]
    tail = (1 - confidence) / 2
    low_T, high_T = np.clip(np.quantile(solved_BT, [tail, 1 - tail], axis=0), 0.0, 1.0)
    method = f"Rogan-Gladen, {DRAWS} draws of confusion matrix and predicted shares"
    return [
        Estimate(value, Interval(min(low, value), max(high, value), method, confidence), int(predicted_P.sum()))
        for value, low, high in zip(values_T.tolist(), low_T.tolist(), high_T.tolist(), strict=True)
    ]


def _dirichlet(random: np.random.Generator, counts_XP: Floats) -> Floats:
    """Draws of shares whose counts these are. Shape: (B,) + X + (P,)."""
    drawn = random.standard_gamma(np.broadcast_to(counts_XP + _JEFFREYS, (DRAWS, *counts_XP.shape)))
    return drawn / drawn.sum(axis=-1, keepdims=True)


def _likeliest(matrix_TP: Floats, predicted_P: Floats) -> Floats:
    """Shares of the true labels under which the predictions are most likely: the exact solution unless it has negative
    shares, or none exists."""
    weight_P = predicted_P / predicted_P.sum()
    if np.linalg.matrix_rank(matrix_TP) == len(matrix_TP):
        exact_T = np.linalg.solve(matrix_TP.T, weight_P)
        if exact_T.min() >= 0:
            return exact_T
    share_T = np.full(len(matrix_TP), 1 / len(matrix_TP))
    for _ in range(_STEPS):
        mixed_P = share_T @ matrix_TP
        there_P = mixed_P > 0
        before_T, share_T = share_T, share_T * (matrix_TP[:, there_P] @ (weight_P[there_P] / mixed_P[there_P]))
        share_T = share_T / share_T.sum()
        if np.abs(share_T - before_T).max() < _NEAR:
            break
    return share_T
