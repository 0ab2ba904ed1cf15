"""Class imbalance: class weights in the loss, and logit adjustment by label frequency during training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Config
from .batches import LabelOffsets
from .encode import Candidates, Row


@dataclass(frozen=True)
class Balance:
    """For each label: the weight of its rows in the loss, and the offsets of the logits where the label is decided."""

    weights: Sequence[float]
    offsets: Sequence[LabelOffsets]


def balance(config: Config, candidates: Candidates, rows: Sequence[Row]) -> Balance:
    """Class weights and logit adjustment according to the setting `class_weight`."""
    strength = config.logit_adjustment if config.class_weight == "auto" else 0.0
    return Balance(
        class_weights(config.class_weight, rows, len(candidates.own)), logit_adjustment(candidates, rows, strength)
    )


def class_weights(weighting: str, rows: Sequence[Row], labels: int) -> list[float]:
    """Weight of each label: 1, or with "balanced" rows / (classes · rows of the class); 1 for a label without rows."""
    counts = Counter(row.label for row in rows)
    if weighting != "balanced":
        return [1.0] * labels
    return [len(rows) / (len(counts) * counts[label]) if counts[label] else 1.0 for label in range(labels)]


def logit_adjustment(candidates: Candidates, rows: Sequence[Row], strength: float) -> list[LabelOffsets]:
    """Logit adjustment (Menon et al. 2021, arXiv 2007.07314): strength · log share of rows, where a label is decided.

    A model trained with these offsets predicts without them as if all labels were equally frequent (strength 1). The
    most frequent label at a place gets offset 0, so that labels keep their level relative to the rest of the
    vocabulary. A label without rows counts as one row. Empty for a strength of 0.
    """
    if strength == 0.0:
        return []
    counts = Counter(row.label for row in rows)
    return [_offsets_of(candidates, label, counts, strength) for label in range(len(candidates.own))]


def _offsets_of(candidates: Candidates, label: int, counts: Counter[int], strength: float) -> LabelOffsets:
    found: list[tuple[int, int, float]] = []
    for place in candidates.decisions(label):
        rivals = candidates.rivals(label, place - len(candidates.shared))
        rows_of = {token: max(1, sum(counts[other] for other in labels)) for token, labels in rivals.items()}
        most = max(rows_of.values())
        found += [(place, token, strength * math.log(count / most)) for token, count in rows_of.items()]
    return found
