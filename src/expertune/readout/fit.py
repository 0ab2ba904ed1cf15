"""Fit the readout: every choice by grouped cross-validation on the training records alone.

Axes: N record · L depth · P pooling (mean, standard deviation) · D model width · F feature · K label.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modelset.records import TfidfTables
from ..modelset.tfidf_classifier import packed
from ..modelset.word_pool import FittedWords, fit_words
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats import metrics
from ..stats.folds import FOLDS, group_folds
from ..stats.label_choice import choose, fit_label_weights
from ..stats.logistic import fit_lines
from ..stats.pooling import LEAST, fit_pool
from .record import FEATURES, Floats, OutOfFold, StatesClassifier, features_of, rater_at
from .states import PooledStates

INVERSE_REGULARISATION = (1e-3, 3e-3, 1e-2)  # C of scikit-learn, on standardised features
# Records weigh as so great a power of scikit-learn's "balanced": rare labels are learnt, and the log-loss hardly
# differs from that of no weights (docs/decisions/0013)
BALANCE = 0.5
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Fit:
    """The raters, how they are pooled and a label is chosen, figures by name, and each training record's out-of-fold
    probabilities.

    `states`, `words` and `weights` are by name; `label_bias` and `label_weights` are in the order of the scale.
    `fitted_words` are all raters by word counts, of which some may have no weight here.
    """

    states: Mapping[str, StatesClassifier]
    words: Mapping[str, TfidfTables]
    weights: Mapping[str, float]
    label_bias: tuple[float, ...]
    label_weights: tuple[float, ...]
    figures: Mapping[str, OutOfFold]
    out_of_fold_NK: Floats
    fitted_words: FittedWords | None

    @property
    def best_states(self) -> StatesClassifier:
        """Of the raters by states, the one with the lowest out-of-fold log-loss."""
        return self.states[min(self.states, key=lambda name: self.figures[name].log_loss)]


@dataclass(frozen=True)
class _Problem:
    """Indices of the labels and of the folds of the training records, for `labels` labels."""

    label_N: NDArray[np.intp]
    fold_N: NDArray[np.intp]
    labels: int

    def log_loss(self, share_NK: Floats) -> float:
        return float(-np.log(np.maximum(share_NK[np.arange(len(share_NK)), self.label_N], LEAST)).mean())

    def figures(self, share_NK: Floats, label_weights: Sequence[float] = ()) -> OutOfFold:
        chosen = choose(share_NK, label_weights or [1.0] * self.labels).tolist()
        counts = metrics.confusion(self.label_N.tolist(), chosen, self.labels)
        return OutOfFold(rows=len(share_NK), macro_f1=float(metrics.macro_f1(counts)), log_loss=self.log_loss(share_NK))


@dataclass(frozen=True)
class _Trial:
    """One setting of a classifier on states, with its out-of-fold probabilities and their log-loss."""

    layer: int
    features: str
    c: float
    share_NK: Floats
    log_loss: float


def fit(
    train: Sequence[Rating],
    found: PooledStates,
    scale: RatingScale,
    groups: Mapping[str, str],
    *,
    seed: int,
    words: bool = True,
) -> Fit | None:
    """Fit on the training records; None where too few records or labels are there for cross-validation.

    Without `words` the words of the records have no part in it.
    """
    fold_N = group_folds([groups.get(row.id, row.id) for row in train], seed)
    label_N = np.asarray([scale.values.index(row.value) for row in train], dtype=np.intp)
    problem = _Problem(label_N, fold_N, len(scale.labels))
    if any(len(set(label_N[fold_N != fold])) < 2 for fold in range(FOLDS)):
        return None
    fitted = fit_words(train, scale, groups, seed=seed) if words else None
    if words and fitted is None:
        return None
    trials = {rater_at(depth): _best_trial(found, layer, problem) for layer, depth in enumerate(found.depths)}
    shares = {name: each.share_NK for name, each in trials.items()} | dict(fitted.out_of_fold if fitted else {})
    share_MNK = list(shares.values())
    pool = fit_pool(share_MNK, label_N)
    fused_NK = pool.combine(share_MNK)
    label_weights = fit_label_weights(fused_NK)
    weights = dict(zip(shares, pool.weights, strict=True))
    figures = {name: problem.figures(each) for name, each in shares.items()}
    best = min(trials, key=lambda name: trials[name].log_loss)
    kept = {name: each for name, each in trials.items() if weights[name]} or {best: trials[best]}
    return Fit(
        {name: _classifier(each, found, problem, scale) for name, each in kept.items()},
        {name: each for name, each in (fitted.tables if fitted else {}).items() if weights[name]},
        {name: weight for name, weight in weights.items() if weight or name in kept},
        pool.bias,
        label_weights,
        figures | {"fused": problem.figures(fused_NK, label_weights)},
        fused_NK,
        fitted,
    )


def _best_trial(found: PooledStates, layer: int, problem: _Problem) -> _Trial:
    """The features and regularisation with the lowest out-of-fold log-loss at a depth."""

    def trial(features: str, c: float) -> _Trial:
        share_NK = _cross_validated(features_of(found.states_NLPD[:, layer], features), problem, c)
        return _Trial(layer, features, c, share_NK, problem.log_loss(share_NK))

    settings = itertools.product(FEATURES, INVERSE_REGULARISATION)
    return min((trial(*each) for each in settings), key=lambda each: each.log_loss)


def _cross_validated(x_NF: Floats, problem: _Problem, c: float) -> Floats:
    from scipy.special import softmax

    share_NK = np.zeros((len(x_NF), problem.labels))
    for fold in range(FOLDS):
        out_N = problem.fold_N == fold
        if out_N.any():
            labels, weight_KF, intercept_K = regression(x_NF[~out_N], problem.label_N[~out_N], c)
            share_NK[np.ix_(out_N, labels)] = softmax(x_NF[out_N] @ weight_KF.T + intercept_K, axis=1)
    return share_NK


def regression(x_NF: Floats, label_N: NDArray[np.intp], c: float) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Labels that occur, and weights and intercepts on the features as they are, before standardisation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.class_weight import compute_sample_weight

    mean_F, deviation_F = x_NF.mean(axis=0), x_NF.std(axis=0) + 1e-6
    model: Any = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=1e-3)
    balanced_N = compute_sample_weight("balanced", label_N)
    x_NF = (x_NF - mean_F) / deviation_F
    weight_KF, intercept_K = fit_lines(model, x_NF, label_N, balanced_N**BALANCE)
    weight_KF = weight_KF / deviation_F
    return model.classes_, weight_KF, intercept_K - weight_KF @ mean_F


def _classifier(trial: _Trial, found: PooledStates, problem: _Problem, scale: RatingScale) -> StatesClassifier:
    x_NF = features_of(found.states_NLPD[:, trial.layer], trial.features)
    labels, weight_KF, intercept_K = regression(x_NF, problem.label_N, trial.c)
    return StatesClassifier.model_validate(
        {
            "depth": found.depths[trial.layer],
            "features": trial.features,
            "inverse_regularisation": trial.c,
            "labels": tuple(scale.labels[at] for at in labels),
            "intercepts": tuple(map(float, intercept_K)),
            "weights": packed(weight_KF),
        }
    )
