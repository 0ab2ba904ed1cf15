"""Which label to write for calibrated probabilities, if rare labels are to count as much as common ones.

The likeliest label gives the highest accuracy, and hardly ever a rare one. For the highest macro-F1 a label's share is
weighed by its prior to the power of -τ (logit adjustment, Menon et al. 2021). τ is the one with the highest *expected*
macro-F1 of the probabilities themselves (a plug-in rule: Dembczyński et al. 2013, Lipton et al. 2014): counted in
records, a few records of a rare label would decide.

Axes: N record · K label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats

POWERS = tuple(step / 8 for step in range(9))  # τ: 0 is the likeliest label, 1 counts all labels alike


def choose(share_NK: Floats, weights: Sequence[float] | Floats) -> NDArray[np.intp]:
    """Index of the chosen label of each record, (N,): that of the largest weighed probability."""
    return (share_NK * np.asarray(weights)).argmax(axis=1)


def fit_label_weights(share_NK: Floats) -> tuple[float, ...]:
    """A weight for each label, 1 for the commonest, by calibrated probabilities of records that were not fitted on."""
    prior_K = np.maximum(share_NK.mean(axis=0), 1 / (2 * len(share_NK)))
    ways = [(prior_K / prior_K.max()) ** -power for power in POWERS]
    best = max(ways, key=lambda weight_K: _expected_macro_f1(share_NK, weight_K))
    return tuple(round(float(each), 6) for each in best)


def _expected_macro_f1(share_NK: Floats, weight_K: Floats) -> float:
    chosen_NK = np.eye(share_NK.shape[1])[choose(share_NK, weight_K)]
    right_K = (chosen_NK * share_NK).sum(axis=0)
    counts_K = chosen_NK.sum(axis=0) + share_NK.sum(axis=0)
    return float((2 * right_K / np.maximum(counts_K, 1e-9)).mean())
