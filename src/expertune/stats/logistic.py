"""Fit scikit-learn's logistic regression, with a line for each label.

Axes: N record · F feature · K label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine import one_thread
from .metrics import Floats


def fit_lines(
    model: Any, x_NF: Any, label_N: Sequence[int] | NDArray[np.intp], weight_N: Floats | None = None
) -> tuple[Floats, Floats]:
    """Fit `model`; weights and intercepts of each label, in the order of `model.classes_`. Records weigh `weight_N`."""
    with one_thread():
        model.fit(x_NF, label_N, sample_weight=weight_N)
    weight_KF, intercept_K = model.coef_, model.intercept_
    if len(model.classes_) > 2:
        return weight_KF, intercept_K
    # one line for the second of two labels: the softmax of half of it either way is the same
    return np.vstack([-weight_KF, weight_KF]) / 2, np.concatenate([-intercept_K, intercept_K]) / 2
