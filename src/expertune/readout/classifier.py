"""A readout, ready for many records: the pool of its classifiers on states and on words.

Axes: N record · L depth · P pooling (mean, standard deviation) · D model width · K label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..modelset.tfidf_classifier import TfidfClassifier
from ..stats.label_choice import choose
from ..stats.pooling import LogPool
from .record import ReadoutRecord


class ReadoutClassifier:
    """Its tables are opened once; safe for several threads."""

    def __init__(self, record: ReadoutRecord) -> None:
        self._labels = list(record.rating_mapping)
        self._states = list(record.states.values())
        self._words = [TfidfClassifier(tables, self._labels) for tables in record.words.values()]
        weights = [record.weights[name] for name in (*record.states, *record.words)]
        self._pool = LogPool(tuple(weights), record.label_bias)
        self._label_weights = record.label_weights

    def predict(self, states_NLPD: NDArray[np.float32], prompts: Sequence[str]) -> list[tuple[float, ...]]:
        """Probabilities of the labels of rating_mapping for records, at least one: their pooled states after the
        record's `depths`, and their texts."""
        by_states = [each.predict(states_NLPD[:, at], self._labels) for at, each in enumerate(self._states)]
        by_words = [np.asarray(each.predict(prompts)) for each in self._words]
        share_NK = self._pool.combine([*by_states, *by_words])
        return [tuple(map(float, own_K)) for own_K in share_NK]

    def choose(self, probabilities: Sequence[float]) -> int:
        """Index of the label that is written for a record's probabilities."""
        return int(choose(np.asarray([probabilities]), self._label_weights)[0])
