"""The label decision of each training row: rival tokens, class prior, and target shares of the labels.

The loss at such a place is a softmax over the rival tokens alone, so that it says nothing about the rest of the
vocabulary; the language-model loss of the token itself is separate (docs/decisions/0016).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..config import Config
from ..ratings.unlabelled import MOST_PER_RATED
from .encode import Candidates, Row

# All records without a rating together weigh at most as much as the expert's: their labels are another rater's alone
UNRATED_WEIGHT = 1 / MOST_PER_RATED

SoftLabels = Mapping[str, Sequence[float]]  # row id → a probability for each label, in the scale's order


@dataclass(frozen=True)
class Teacher:
    """Another rater of the records to train on: its probabilities, by fits that did not see the record, and the weights
    by which it chooses a label, in the scale's order (`choose` of stats/label_choice.py); none: the likeliest."""

    soft_labels: SoftLabels = field(default_factory=dict)
    label_weights: Sequence[float] = ()


NO_TEACHER = Teacher()


@dataclass(frozen=True)
class Decision:
    """A place of a row's answer at which labels part. For each rival token: its logit offset and its target share.

    The shares sum to 1; `weight` is the loss weight. The place of the code is that after the answer's last token.
    """

    place: int
    tokens: tuple[int, ...]
    offsets: tuple[float, ...]
    shares: tuple[float, ...]
    weight: float


@dataclass(frozen=True)
class _Prior:
    """Rows of each label (at least 1), the strength of the logit adjustment (Menon et al. 2021, arXiv 2007.07314), and
    the weight of each label in the teacher's choice.

    Trained with strength · log of a label's share added to its logit, a model predicts without it as if all labels were
    equally frequent (strength 1); with log of a weight taken off, its likeliest label is that of the largest weighed
    probability. The most frequent token of a place gets offset 0.
    """

    rows: Sequence[int]
    strength: float
    label_weights: Sequence[float]

    def offsets(self, rivals: Collection[Sequence[int]]) -> tuple[float, ...]:
        """Offset of each rival token, from the labels that take it; their weights count by their rows."""
        rows = [sum(self.rows[label] for label in labels) for labels in rivals]
        weighed = [sum(self.rows[label] * self.label_weights[label] for label in labels) for labels in rivals]
        found = [
            self.strength * math.log(count) - math.log(own / count) for count, own in zip(rows, weighed, strict=True)
        ]
        frequent = found[rows.index(max(rows))]
        return tuple(each - frequent for each in found)


@dataclass(frozen=True)
class Balance:
    """Loss weight of each label's rows, and the decisions of each row by its id."""

    weights: Sequence[float]
    decisions: Mapping[str, tuple[Decision, ...]]


def balance(config: Config, candidates: Candidates, rows: Sequence[Row], teacher: Teacher = NO_TEACHER) -> Balance:
    """Class weights and decisions according to `class_weight`, `logit_adjustment`, `decision_weight`, `code_weight`
    and `soft_label_weight`. Frequencies are those of the rated rows; the target of the others is their soft label.
    """
    rated, soft = [row for row in rows if row.rated], teacher.soft_labels
    counts = Counter(row.label for row in rated)
    weights = class_weights(config.class_weight, rated, len(candidates.own))
    strength = config.logit_adjustment if config.class_weight == "auto" else 0.0
    by_teacher = teacher.label_weights if strength and config.soft_label_weight else ()
    label_weights = by_teacher or [1.0] * len(candidates.own)
    prior = _Prior([max(1, counts[label]) for label in range(len(candidates.own))], strength, label_weights)
    decisions = {}
    for row in rows:
        if row.rated:
            shares = _target_shares(row, len(candidates.own), soft.get(row.id), config.soft_label_weight)
        else:
            shares = soft[row.id]
        weight = config.decision_weight * weights[row.label] * (1.0 if row.rated else UNRATED_WEIGHT)
        decisions[row.id] = tuple(_decisions(candidates, row.label, prior, shares, weight))
        if candidates.code is not None:
            offsets = prior.offsets([(label,) for label in range(len(shares))])
            code = Decision(len(row.answer), candidates.code.codes, offsets, tuple(shares), weight * config.code_weight)
            decisions[row.id] += (code,)
    return Balance(weights, decisions)


def class_weights(weighting: str, rows: Sequence[Row], labels: int) -> list[float]:
    """Weight of each label: 1, or with "balanced" rows / (classes · rows of the class); 1 for a label without rows."""
    counts = Counter(row.label for row in rows)
    if weighting != "balanced":
        return [1.0] * labels
    return [len(rows) / (len(counts) * counts[label]) if counts[label] else 1.0 for label in range(labels)]


def _target_shares(row: Row, labels: int, soft: Sequence[float] | None, weight: float) -> list[float]:
    """The expert's label, mixed with the soft label of another rater where there is one."""
    hard = [float(label == row.label) for label in range(labels)]
    return hard if soft is None else [(1 - weight) * a + weight * float(b) for a, b in zip(hard, soft, strict=True)]


def _decisions(
    candidates: Candidates, label: int, prior: _Prior, shares: Sequence[float], weight: float
) -> Iterator[Decision]:
    for place in candidates.decisions(label):
        rivals = candidates.rivals(label, place - len(candidates.shared))
        mass = [sum(shares[other] for other in labels) for labels in rivals.values()]
        here = sum(mass)  # below 1 after a first fork: soft labels also point to labels that parted before
        found = tuple(each / here for each in mass)
        yield Decision(place, tuple(rivals), prior.offsets(rivals.values()), found, weight * here)
