"""Fit the readout: every choice by grouped cross-validation on the training records alone.

Axes: N record · L depth · P pooling (mean, last token) · D model width · F feature · K label.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modelset.tfidf_classifier import TfidfSettings, fit_tfidf, out_of_fold, packed
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats import metrics
from ..stats.folds import FOLDS, group_folds
from ..stats.logistic import fit_lines
from .record import Floats, OutOfFold, StatesClassifier, features_of, fuse
from .states import PooledStates

INVERSE_REGULARISATION = (1e-3, 3e-3, 1e-2)  # C of scikit-learn, on standardised features
FEATURES = ("mean", "both")
# Records weigh as so great a power of scikit-learn's "balanced": the square root gives nearly the log-loss of no
# weights, whole ones the better macro-F1 (docs/decisions/0013)
BALANCE = (0.5, 1.0)
LETTERS = (False, True)  # groups of letters beside the words
WORDS_C = 3.0  # C of scikit-learn for the word counts
STATES_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TFIDF_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # above 1: balanced TF-IDF is less sure than it could be
MOST_TERMS = 20_000  # words and pairs, and as many letter groups
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Fit:
    """The classifiers, their weights, figures by name, and each training record's out-of-fold probabilities."""

    states: StatesClassifier
    tfidf: Any
    states_weight: float
    tfidf_weight: float
    figures: Mapping[str, OutOfFold]
    out_of_fold_NK: Floats


@dataclass(frozen=True)
class _Problem:
    """Indices of the labels and of the folds of the training records, for `labels` labels."""

    label_N: NDArray[np.intp]
    fold_N: NDArray[np.intp]
    labels: int

    def log_loss(self, share_NK: Floats) -> float:
        return float(-np.log(np.maximum(share_NK[np.arange(len(share_NK)), self.label_N], 1e-6)).mean())

    def badness(self, share_NK: Floats) -> float:
        """Log-loss less macro-F1: either alone chose what was worse in the other (docs/decisions/0013)."""
        found = self.figures(share_NK)
        return found.log_loss - found.macro_f1

    def figures(self, share_NK: Floats) -> OutOfFold:
        counts = metrics.confusion(self.label_N.tolist(), share_NK.argmax(axis=1).tolist(), self.labels)
        return OutOfFold(rows=len(share_NK), macro_f1=float(metrics.macro_f1(counts)), log_loss=self.log_loss(share_NK))


@dataclass(frozen=True)
class _Trial:
    """One setting of the classifier on states, with its out-of-fold probabilities."""

    layer: int
    features: str
    balance: float
    c: float
    share_NK: Floats


@dataclass(frozen=True)
class _Fusion:
    """A classifier on states and one on words, and the weights of their log-probabilities."""

    states: _Trial
    letters: bool
    words_NK: Floats
    weights: tuple[float, float]

    @property
    def share_NK(self) -> Floats:
        return fuse(self.states.share_NK, self.words_NK, *self.weights)


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

    Without `words` TF-IDF has no part in it.
    """
    fold_N = group_folds([groups.get(row.id, row.id) for row in train], seed)
    label_N = np.asarray([scale.values.index(row.value) for row in train], dtype=np.intp)
    problem = _Problem(label_N, fold_N, len(scale.labels))
    if any(len(set(label_N[fold_N != fold])) < 2 for fold in range(FOLDS)):
        return None
    by_words = {
        letters: np.asarray(out_of_fold(train, scale, groups, seed=seed, how=_words(letters)))  # the same folds
        for letters in (LETTERS if words else LETTERS[:1])
    }
    if not all(map(len, by_words.values())):
        return None
    weights = [each for each in itertools.product(STATES_WEIGHTS, TFIDF_WEIGHTS) if any(each)]
    best = min(
        (
            _Fusion(trial, letters, words_NK, each)
            for trial in _best_trials(found, problem)
            for letters, words_NK in by_words.items()
            for each in (weights if words else [(1.0, 0.0)])
        ),
        key=lambda each: problem.badness(each.share_NK),
    )
    figures = {"states": best.states.share_NK, "TF-IDF": best.words_NK, "fused": best.share_NK}
    return Fit(
        _classifier(best.states, found, problem, scale),
        fit_tfidf(train, scale, seed=seed, how=_words(best.letters)) if best.weights[1] else None,
        *best.weights,
        {name: problem.figures(each) for name, each in figures.items()},
        best.share_NK,
    )


def _words(letters: bool) -> TfidfSettings:
    return TfidfSettings(most_terms=MOST_TERMS, inverse_regularisation=WORDS_C, letters=letters)


def _best_trials(found: PooledStates, problem: _Problem) -> list[_Trial]:
    """The depth, features and regularisation with the lowest out-of-fold log-loss, with each balance of the classes."""

    def trial(layer: int, features: str, c: float, balance: float) -> _Trial:
        x_NF = features_of(found.states_NLPD[:, layer], features)
        return _Trial(layer, features, balance, c, _cross_validated(x_NF, problem, balance, c))

    settings = itertools.product(range(len(found.depths)), FEATURES, INVERSE_REGULARISATION)
    best = min((trial(*each, BALANCE[0]) for each in settings), key=lambda each: problem.log_loss(each.share_NK))
    return [best, *(trial(best.layer, best.features, best.c, balance) for balance in BALANCE[1:])]


def _cross_validated(x_NF: Floats, problem: _Problem, balance: float, c: float) -> Floats:
    from scipy.special import softmax

    share_NK = np.zeros((len(x_NF), problem.labels))
    for fold in range(FOLDS):
        out_N = problem.fold_N == fold
        if out_N.any():
            labels, weight_KF, intercept_K = regression(x_NF[~out_N], problem.label_N[~out_N], balance, c)
            share_NK[np.ix_(out_N, labels)] = softmax(x_NF[out_N] @ weight_KF.T + intercept_K, axis=1)
    return share_NK


def regression(
    x_NF: Floats, label_N: NDArray[np.intp], balance: float, c: float
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Labels that occur, and weights and intercepts on the features as they are, before standardisation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.class_weight import compute_sample_weight

    mean_F, deviation_F = x_NF.mean(axis=0), x_NF.std(axis=0) + 1e-6
    model: Any = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=1e-3)
    balanced_N = compute_sample_weight("balanced", label_N)
    x_NF = (x_NF - mean_F) / deviation_F
    weight_KF, intercept_K = fit_lines(model, x_NF, label_N, balanced_N**balance)
    weight_KF = weight_KF / deviation_F
    return model.classes_, weight_KF, intercept_K - weight_KF @ mean_F


def _classifier(best: _Trial, found: PooledStates, problem: _Problem, scale: RatingScale) -> StatesClassifier:
    x_NF = features_of(found.states_NLPD[:, best.layer], best.features)
    labels, weight_KF, intercept_K = regression(x_NF, problem.label_N, best.balance, best.c)
    return StatesClassifier.model_validate(
        {
            "depth": found.depths[best.layer],
            "features": best.features,
            "shared_tokens": found.shared,
            "inverse_regularisation": best.c,
            "labels": tuple(scale.labels[at] for at in labels),
            "intercepts": tuple(map(float, intercept_K)),
            "weights": packed(weight_KF),
        }
    )
