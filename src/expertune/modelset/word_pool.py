"""Raters by word counts, pooled: they weigh terms differently, and err on other records (docs/decisions/0023).

Axes: M rater · N record · K label.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..predict.score import Prediction, Rated, Scorer
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.label_choice import choose, fit_label_weights
from ..stats.metrics import Floats
from ..stats.pooling import LogPool, fit_pool
from ..train.class_balance import NO_TEACHER, Teacher
from .records import TFIDF, TfidfTables, WordPool
from .tfidf_classifier import TfidfClassifier, TfidfSettings, fit_tfidf, out_of_fold

WORDS = {
    TFIDF: TfidfSettings(inverse_regularisation=3.0),
    "naive Bayes": TfidfSettings(letters=False, naive_bayes="sums"),
    "naive Bayes by presence": TfidfSettings(letters=False, naive_bayes="presence"),
}


@dataclass(frozen=True)
class FittedWords:
    """The raters of WORDS by name: `tables` fitted to all training records, and the probabilities of `rows`, a sample
    of them or all, each by fits that saw no record of its group."""

    tables: Mapping[str, TfidfTables]
    rows: Sequence[Rating]
    out_of_fold: Mapping[str, Floats]


def fit_words(
    train: Sequence[Rating], scale: RatingScale, groups: Mapping[str, str], *, seed: int, most: int | None = None
) -> FittedWords | None:
    """Fit each rater; None where a fold or the whole has too few records or labels.

    Of more than `most` records a sample is cross-validated: that takes seconds then, whatever the size of the data.
    """
    rows = train
    if most is not None and len(train) > most:
        rows = [train[at] for at in sorted(random.Random(seed).sample(range(len(train)), most))]
    share_MNK = out_of_fold(rows, scale, groups, WORDS, seed=seed)
    tables = fit_tfidf(train, scale, WORDS, seed=seed) if share_MNK else None
    return FittedWords(tables, rows, share_MNK) if share_MNK and tables else None


def pool_words(words: FittedWords, scale: RatingScale) -> tuple[WordPool, dict[str, tuple[float, ...]]]:
    """The pool with the lowest out-of-fold log-loss, and its out-of-fold probabilities by id."""
    label_N = np.asarray([scale.values.index(row.value) for row in words.rows], dtype=np.intp)
    share_MNK = list(words.out_of_fold.values())
    pool = fit_pool(share_MNK, label_N)
    share_NK = pool.combine(share_MNK)
    weights = dict(zip(words.out_of_fold, pool.weights, strict=True))
    kept = {name: weight for name, weight in weights.items() if weight} or weights
    made = WordPool(
        raters={name: words.tables[name] for name in kept},
        weights=kept,
        label_bias=pool.bias,
        label_weights=fit_label_weights(share_NK),
    )
    shares = {row.id: tuple(map(float, own)) for row, own in zip(words.rows, share_NK, strict=True)}
    return made, shares


class WordScorer(Scorer):
    """A pool, ready for many records; safe for several threads."""

    name, slots = TFIDF, 1

    def __init__(self, pool: WordPool, labels: Sequence[str]) -> None:
        self._raters = [TfidfClassifier(tables, labels) for tables in pool.raters.values()]
        self._pool = LogPool(tuple(pool.weights[name] for name in pool.raters), pool.label_bias)
        self._label_weights = pool.label_weights

    def render(self, record: str) -> str:
        return record

    def score(self, record: str) -> Prediction:
        return self.predict([record])[0]

    def describe(self) -> Mapping[str, object]:
        return {"engine": self.name}

    def predict(self, records: Sequence[str]) -> list[Prediction]:
        """The pooled probabilities of each record, and the label that its rule chooses."""
        if not records:
            return []
        share_NK = self._pool.combine([np.asarray(each.predict(records)) for each in self._raters])
        chosen_N = choose(share_NK, self._label_weights)
        return [Prediction(tuple(map(float, own)), chosen=int(at)) for own, at in zip(share_NK, chosen_N, strict=True)]


def rate_by_words(pool: WordPool, rows: Sequence[Rating], scale: RatingScale) -> tuple[Rated, ...]:
    """The records as the pool rates them."""
    found = WordScorer(pool, scale.labels).predict([row.prompt for row in rows])
    return tuple(
        Rated(row.id, scale.labels[each.label], scale.values[each.label], each.probabilities)
        for row, each in zip(rows, found, strict=True)
    )


def teacher(dataset: Dataset, config: Config) -> Teacher:
    """The pool as a teacher: its probabilities of the training records, out of fold, and of those without a rating.
    Without any where it cannot be fitted."""
    split, scale = dataset.split, dataset.scale
    others = dataset.unlabelled.records if dataset.unlabelled else ()
    if not (config.soft_label_weight or others):
        return NO_TEACHER
    words = fit_words(split.train, scale, split.groups, seed=config.seed)
    if words is None:
        return NO_TEACHER
    pool, shares = pool_words(words, scale)
    by_pool = WordScorer(pool, scale.labels).predict([each.prompt for each in others])
    found = {each.id: own.probabilities for each, own in zip(others, by_pool, strict=True)}
    return Teacher({**(shares if config.soft_label_weight else {}), **found}, pool.label_weights)
