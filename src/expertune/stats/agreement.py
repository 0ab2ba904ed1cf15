"""Agreement of several raters: Krippendorff's alpha and Cohen's kappa, from counts that a bootstrap can add up.

The tests compare alpha with the package `krippendorff`, which is no dependency of ours: its licence is the GPL, and a
bootstrap needs the counts.

Arrays: `values_NE` are label indices of record N by rater E, -1 where the rater gave none.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .intervals import Clusters, Statistic, group_sums
from .metrics import Floats, ratio


def nominal_alpha(coincidence_XVV: Floats) -> Floats:
    """Krippendorff's alpha for nominal data: 1 - observed / expected disagreement. Shape: X.

    nan without two ratings of one record, and where all ratings are the same. Source: Krippendorff, "Computing
    Krippendorff's Alpha-Reliability" (2011), section C.
    """
    total = coincidence_XVV.sum(axis=(-2, -1))
    of_value_XV = coincidence_XVV.sum(axis=-1)
    observed = total - np.trace(coincidence_XVV, axis1=-2, axis2=-1)
    return 1.0 - (total - 1.0) * ratio(observed, total**2 - np.square(of_value_XV).sum(axis=-1))


ALPHA = Statistic(nominal_alpha, -1.0, 1.0)


def coincidences(values_NE: NDArray[np.intp], labels: int, groups: Sequence[Hashable]) -> Clusters:
    """Coincidence matrices of the records with two ratings or more, added up by group.

    Each ordered pair of ratings of one record counts 1 / (its ratings - 1), so that a record counts as often as it was
    rated.
    """
    counts_NV = (values_NE[:, :, None] == np.arange(labels)).sum(axis=1).astype(np.float64)
    rated_N = counts_NV.sum(axis=1)
    paired_N = rated_N > 1
    counts_NV = counts_NV[paired_N]
    pairs_NVV = counts_NV[:, :, None] * counts_NV[:, None, :] - counts_NV[:, :, None] * np.eye(labels)
    pairs_NVV /= (rated_N[paired_N] - 1)[:, None, None]
    own = [group for group, paired in zip(groups, paired_N, strict=True) if paired]
    sums = [group_sums(pairs_NVV[:, a, b], own)[0] for a in range(labels) for b in range(labels)]
    return Clusters(np.stack(sums, axis=-1).reshape(-1, labels, labels))
