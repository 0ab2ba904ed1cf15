"""Combine raters that see different things: the log-linear pool of their probabilities.

p(k) ∝ prior(k)^c · Π over raters p(k)^weight, with the weights and c, none below 0, that have the lowest log-loss on
records that no rater was fitted on (Genest and Zidek 1986; stacking without negative weights, Breiman 1996). The sum of
the weights is free, so the pool also calibrates: raters that were fitted with balanced classes get the prior back.

Axes: M rater · N record · K label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats

LEAST = 1e-6  # a probability of 0 has no logarithm
RIDGE = 2e-3  # on the weights: two raters that say the same share theirs


@dataclass(frozen=True)
class LogPool:
    """Weights of the raters, in their order, and what is added to the logarithm of each label's share."""

    weights: tuple[float, ...]
    bias: tuple[float, ...]

    def combine(self, share_MNK: Sequence[Floats]) -> Floats:
        """The pooled probabilities, (N, K)."""
        from scipy.special import softmax

        log_NK = sum(weight * logs(own_NK) for weight, own_NK in zip(self.weights, share_MNK, strict=True))
        return softmax(log_NK + np.asarray(self.bias), axis=1)


def logs(share_NK: Floats) -> Floats:
    """Logarithms of probabilities, of LEAST at least."""
    return np.log(np.maximum(share_NK, LEAST))


def fit_pool(share_MNK: Sequence[Floats], label_N: NDArray[np.intp]) -> LogPool:
    """The pool with the lowest log-loss on records with these labels. The problem is convex: there is one answer."""
    from scipy.optimize import minimize

    labels = share_MNK[0].shape[1]
    log_prior_K = np.log((np.bincount(label_N, minlength=labels) + 1) / (len(label_N) + labels))
    log_MNK = np.stack([*map(logs, share_MNK), np.broadcast_to(log_prior_K, share_MNK[0].shape)])
    true_NK = np.eye(labels)[label_N]

    def loss(weight_M: Floats) -> tuple[float, Floats]:
        z_NK = np.tensordot(weight_M, log_MNK, 1)
        log_NK = z_NK - np.logaddexp.reduce(z_NK, axis=1, keepdims=True)
        slope_M = np.einsum("nk,mnk->m", np.exp(log_NK) - true_NK, log_MNK) / len(label_N)
        mean = -float((log_NK * true_NK).sum()) / len(label_N)
        return mean + RIDGE * float(weight_M @ weight_M), slope_M + 2 * RIDGE * weight_M

    start = np.full(len(log_MNK), 1 / len(share_MNK))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(log_MNK)).x
    weights = [round(float(each), 6) for each in found]
    return LogPool(tuple(weights[:-1]), tuple(round(weights[-1] * float(each), 6) for each in log_prior_K))
