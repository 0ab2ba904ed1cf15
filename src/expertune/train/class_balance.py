"""Uneven classes: weights in the loss, and the labels' frequencies as offsets of their logits while training."""

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
    """For each label, a factor of its rows' loss, and what is added to the logits where it is decided."""

    weights: Sequence[float]
    offsets: Sequence[LabelOffsets]


def balance(config: Config, candidates: Candidates, rows: Sequence[Row]) -> Balance:
    """As `class_weight` says."""
    strength = config.logit_adjustment if config.class_weight == "auto" else 0.0
    return Balance(
        class_weights(config.class_weight, rows, len(candidates.own)), logit_adjustment(candidates, rows, strength)
    )


def class_weights(weighting: str, rows: Sequence[Row], labels: int) -> list[float]:
    """A factor for each label: 1, or rows / (classes · rows of the class); a label without rows gets 1."""
    counts = Counter(row.label for row in rows)
    if weighting != "balanced":
        return [1.0] * labels
    return [len(rows) / (len(counts) * counts[label]) if counts[label] else 1.0 for label in range(labels)]


def logit_adjustment(candidates: Candidates, rows: Sequence[Row], strength: float) -> list[LabelOffsets]:
    """For each label: strength · log of each label's share of the rows, at the places where the label is decided.

    What is learnt on logits with this offset rates, without it, as if all labels were equally frequent (strength 1;
    Menon et al. 2021, arXiv 2007.07314). The commonest label at a place gets 0, so that the labels are not moved
    against the rest of the vocabulary. A label without rows counts as one row. Empty for a strength of 0.
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
