"""Agreement metrics of ratings.

Every figure comes from a confusion matrix, so one formula serves an estimate and its resamples.

Arrays: `confusion_XTP` counts rows by true label T and predicted label P, with any leading axes X (none, or the
resamples of a bootstrap). An undefined figure (0/0) is nan inside arrays and None wherever it leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def confusion(
    truth: Sequence[int], predicted: Sequence[int], labels: int, rows: NDArray[np.intp] | None = None, blocks: int = 1
) -> Floats:
    """Counts of (true, predicted) label indices, as floats.

    Shape: (labels, labels); with `rows`, the block of each row, (blocks, labels, labels).
    """
    counts = np.zeros((blocks, labels, labels))
    block = np.zeros(len(truth), dtype=np.intp) if rows is None else rows
    np.add.at(counts, (block, np.asarray(truth, dtype=np.intp), np.asarray(predicted, dtype=np.intp)), 1.0)
    return counts[0] if rows is None else counts


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element-wise quotient; 0/0 is nan, without a warning."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)


def defined(value: float | np.floating) -> float | None:
    """A plain float, or None where the figure is undefined: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def accuracy(confusion_XTP: Floats) -> Floats:
    """Share of rows on the diagonal. Shape: X."""
    return ratio(np.trace(confusion_XTP, axis1=-2, axis2=-1), confusion_XTP.sum(axis=(-2, -1)))


def f1(confusion_XTP: Floats) -> Floats:
    """F1 of each label; nan where the label is neither in the truth nor predicted. Shape: X + (labels,)."""
    hits = np.diagonal(confusion_XTP, axis1=-2, axis2=-1)
    return ratio(2 * hits, confusion_XTP.sum(axis=-1) + confusion_XTP.sum(axis=-2))


def macro_f1(confusion_XTP: Floats) -> Floats:
    """Mean F1 of the labels that occur in the truth or the prediction (as scikit-learn's default). Shape: X."""
    f1_XK = f1(confusion_XTP)
    return ratio(np.nansum(f1_XK, axis=-1), np.isfinite(f1_XK).sum(axis=-1))


def kappa(confusion_XTP: Floats, disagreement: Floats | None = None) -> Floats:
    """Cohen's kappa: 1 - observed / chance disagreement (Cohen 1960, 1968). Shape: X.

    `disagreement` (labels, labels) weighs each pair of labels; without it every wrong pair costs 1.
    nan where chance alone would always agree (one label throughout).
    """
    labels = confusion_XTP.shape[-1]
    weight_TP = 1.0 - np.eye(labels) if disagreement is None else disagreement
    total = confusion_XTP.sum(axis=(-2, -1))
    chance_XTP = confusion_XTP.sum(axis=-1)[..., :, None] * confusion_XTP.sum(axis=-2)[..., None, :]
    observed = (weight_TP * confusion_XTP).sum(axis=(-2, -1)) * total
    return 1.0 - ratio(observed, (weight_TP * chance_XTP).sum(axis=(-2, -1)))


def log_loss(truth: Sequence[int], probabilities: Sequence[Sequence[float]]) -> Floats:
    """Of each row, minus the natural log of the probability of its true label's index. Shape: (rows,).

    As in scikit-learn no probability counts as less than 2.2e-16, so that a label ruled out wrongly costs 36 and not
    infinity.
    """
    share_N = np.array([shares[label] for label, shares in zip(truth, probabilities, strict=True)], dtype=np.float64)
    return -np.log(np.clip(share_N, np.finfo(np.float64).eps, 1.0))


def quadratic(values: Sequence[int]) -> Floats:
    """Squared distance of two labels' ranks, for kappa on an ordinal scale. Shape: (labels, labels)."""
    rank = np.argsort(np.argsort(np.asarray(values))).astype(np.float64)
    return (rank[:, None] - rank[None, :]) ** 2
