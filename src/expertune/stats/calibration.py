"""Calibrate probabilities: a temperature and a bias for each label, fitted on the validation rows.

Bias-corrected temperature scaling (Guo et al. 2017; Alexandari, Kundaje and Shrikumar 2020), fitted as the mode under
normal priors of the logarithm of the temperature and of each bias around 0: the prior weighs as much as ever while the
rows' weight grows with their number, so that few rows change little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .folds import FOLDS, stratified_folds

SPREAD = 0.5  # standard deviation of the priors: a temperature of 0.6 to 1.6 and odds within a factor of 1.6 are usual
FEWEST_ROWS = 2 * FOLDS
LEAST = 1e-9  # a probability of 0 has no logarithm
FEWEST_OF_LABEL = 5  # a label with fewer validation rows keeps a bias of 0: its share in them says little

Fit = Callable[[NDArray[np.float64], NDArray[np.intp]], tuple[float, NDArray[np.float64]]]


@dataclass(frozen=True)
class Calibration:
    """Fitted calibration, with the cross-validated log-loss before (`log_loss`) and after (`log_loss_calibrated`).

    `bias` has a number for each label of the scale, in its order.
    """

    temperature: float
    bias: tuple[float, ...]
    method: str
    rows: int
    log_loss: float
    log_loss_calibrated: float
    note: str

    @property
    def changes(self) -> bool:
        return self.temperature != 1.0 or any(self.bias)

    def apply(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        """The calibrated probabilities of one row, summing to 1."""
        if not self.changes:
            return tuple(probabilities)
        share_K = _tempered(_logs([probabilities]), self.temperature, np.asarray(self.bias))[0]
        return tuple(float(share) for share in share_K)


def fit_calibration(
    probabilities: Sequence[Sequence[float]] | NDArray[np.float64],
    truth: Sequence[int] | NDArray[np.intp],
    *,
    seed: int = 0,
) -> Calibration | None:
    """Of `probabilities` (rows, labels) and the index of each row's true label; None without rows.

    Of temperature with bias, temperature alone and neither, what has the least cross-validated log-loss is taken, so
    that it never makes the validation rows worse.
    """
    if len(truth) == 0:
        return None
    log_NK, true_N = _logs(probabilities), np.asarray(truth, dtype=np.intp)
    labels = log_NK.shape[1]
    nothing = (1.0, np.zeros(labels))
    if len(truth) < FEWEST_ROWS:
        before = _loss(log_NK, true_N, *nothing)
        note = f"{len(truth)} validation records are too few to calibrate by ({FEWEST_ROWS} are needed)"
        return Calibration(1.0, (0.0,) * labels, "none", len(truth), before, before, note)
    often_K = np.bincount(true_N, minlength=labels) >= FEWEST_OF_LABEL
    ways: dict[str, Fit] = {
        "none": lambda log_NK, true_N: nothing,
        "temperature": lambda log_NK, true_N: _fit(log_NK, true_N, np.zeros(labels, dtype=bool)),
        "temperature and bias": lambda log_NK, true_N: _fit(log_NK, true_N, often_K),
    }
    fold_N = stratified_folds(true_N, seed)
    losses = {name: _cross_validated(log_NK, true_N, fold_N, fit) for name, fit in ways.items()}
    best = min(losses, key=lambda name: losses[name])  # the first of equals: none
    before = losses["none"]
    temperature, bias_K = ways[best](log_NK, true_N)
    rows = f"{len(truth)} validation records"
    note = (
        f"on {rows} no calibration had a lower cross-validated log-loss than none ({before:.3f})"
        if best == "none"
        else f"{best}: cross-validated log-loss of {rows} {before:.3f} → {losses[best]:.3f}"
    )
    bias = tuple(float(each) for each in bias_K)
    return Calibration(float(temperature), bias, best, len(truth), before, losses[best], note)


def fit_temperature(probabilities: Sequence[Sequence[float]], truth: Sequence[int], *, seed: int = 0) -> float:
    """The temperature alone; 1 if there are few rows, or if it does not lower the cross-validated log-loss."""
    log_NK, true_N = _logs(probabilities), np.asarray(truth, dtype=np.intp)
    if len(true_N) < FEWEST_ROWS:
        return 1.0

    def fit(log_NK: NDArray[np.float64], true_N: NDArray[np.intp]) -> tuple[float, NDArray[np.float64]]:
        return _fit(log_NK, true_N, np.zeros(log_NK.shape[1], dtype=bool))

    loss = _cross_validated(log_NK, true_N, stratified_folds(true_N, seed), fit)
    return fit(log_NK, true_N)[0] if loss < _loss(log_NK, true_N, 1.0, np.zeros(log_NK.shape[1])) else 1.0


def _logs(shares: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(shares, dtype=np.float64), LEAST))


def _tempered(log_NK: NDArray[np.float64], temperature: float, bias_K: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import softmax

    return softmax(log_NK / temperature + bias_K, axis=1)


def _loss(
    log_NK: NDArray[np.float64], true_N: NDArray[np.intp], temperature: float, bias_K: NDArray[np.float64]
) -> float:
    share_N = _tempered(log_NK, temperature, bias_K)[np.arange(len(true_N)), true_N]
    return float(-np.log(np.maximum(share_N, LEAST)).mean())


def _fit(
    log_NK: NDArray[np.float64], true_N: NDArray[np.intp], free_K: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """The most probable temperature and biases; only the biases of `free_K` move."""
    from scipy.optimize import minimize

    def unpacked(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        bias_K = np.zeros(len(free_K))
        bias_K[free_K] = x[1:]
        return float(np.exp(x[0])), bias_K

    def cost(x: NDArray[np.float64]) -> float:
        return len(true_N) * _loss(log_NK, true_N, *unpacked(x)) + float(np.square(x / SPREAD).sum()) / 2

    found = minimize(cost, np.zeros(1 + int(free_K.sum())), method="L-BFGS-B", bounds=[(-3, 3)] * (1 + free_K.sum()))
    return unpacked(found.x)


def _cross_validated(
    log_NK: NDArray[np.float64], true_N: NDArray[np.intp], fold_N: NDArray[np.intp], fit: Fit
) -> float:
    total = 0.0
    for fold in range(FOLDS):
        out_N = fold_N == fold
        found = fit(log_NK[~out_N], true_N[~out_N])
        total += _loss(log_NK[out_N], true_N[out_N], *found) * int(out_N.sum())
    return total / len(true_N)
