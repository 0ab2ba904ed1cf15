"""Learning curve of the readout's classifier on hidden states, which the run has already computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import Config
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.learning_curve import Indices, LearningCurve, learning_curve
from ..stats.metrics import Floats
from .fit import regression
from .record import StatesClassifier, features_of
from .states import PooledStates

NAME = "readout without word counts"


def states_curve(
    train: Sequence[Rating],
    found: PooledStates,
    chosen: StatesClassifier,
    scale: RatingScale,
    groups: Mapping[str, str],
    config: Config,
) -> LearningCurve | None:
    """Cross-validate the classifier with the `chosen` depth, features and regularisation on shares of `train`."""
    from scipy.special import softmax

    x_NF = features_of(found.states_NLPD[:, found.depths.index(chosen.depth)], chosen.features)
    label_N = np.array([scale.values.index(row.value) for row in train], dtype=np.intp)

    def predict(known: Indices, out: Indices) -> Floats:
        share_MK = np.zeros((len(out), len(scale.labels)))
        fitted = regression(x_NF[known], label_N[known], chosen.inverse_regularisation)
        labels, weight_KF, intercept_K = fitted
        share_MK[:, labels] = softmax(x_NF[out] @ weight_KF.T + intercept_K, axis=1)
        return share_MK

    return learning_curve(
        NAME,
        predict,
        label_N.tolist(),
        len(scale.labels),
        [groups.get(row.id, row.id) for row in train],
        seed=config.seed,
        count=config.bootstrap_resamples,
        confidence=config.confidence_level,
    )
