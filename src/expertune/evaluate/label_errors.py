"""Likely label errors: records to which raters that had not learned them confidently give another label.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70, section 3.1): the
threshold of a label is the mean probability that the records with this label got for it. A record is counted with the
likeliest of the labels whose threshold it reaches; where that is not the expert's, its label is likely wrong. They are
ordered by the probability of the expert's label (self-confidence), the lowest first.

Axes: N record · K label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..predict.score import Rated, mean_shares
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating

MOST, SHARE, LEAST = 100, 0.05, 10  # records listed: this share of those examined, within these numbers
UNTAUGHT = ("base", "majority")  # raters that have learned nothing from the expert, or nothing about a record

Shares = Mapping[str, Sequence[float]]  # probabilities of the labels by record id


@dataclass(frozen=True)
class LabelError:
    """A record whose `label` by the raters, with its probability, is confidently another than the expert's."""

    id: str
    part: str
    expert: str
    expert_probability: float
    label: str
    probability: float


@dataclass(frozen=True)
class ExaminedPart:
    """Number of records of a part ("train", "dev", "test") that were examined, and the names of their raters."""

    part: str
    rows: int
    raters: tuple[str, ...]


@dataclass(frozen=True)
class LabelErrors:
    """Likely label errors among the examined records: the `total` number, and the likeliest ones first."""

    parts: tuple[ExaminedPart, ...]
    total: int
    listed: tuple[LabelError, ...]


@dataclass(frozen=True)
class UnseenRatings:
    """Records of a part as raters that had not learned them rate them; records without `shares` are left out."""

    part: str
    raters: tuple[str, ...]
    truth: Sequence[Rating]
    shares: Shares

    @classmethod
    def by_consensus(cls, part: str, truth: Sequence[Rating], raters: Mapping[str, Sequence[Rated]]) -> UnseenRatings:
        """The mean log-probabilities of those taught raters that rated every record that the first one did."""
        by_rater = {
            name: {each.id: each.probabilities for each in rated}
            for name, rated in raters.items()
            if name not in UNTAUGHT
        }
        first = next(iter(by_rater.values()), {})
        whole = {name: own for name, own in by_rater.items() if first.keys() <= own.keys()}
        return cls(part, tuple(whole), truth, {id: mean_shares([own[id] for own in whole.values()]) for id in first})


def likely_label_errors(parts: Sequence[UnseenRatings], scale: RatingScale) -> LabelErrors:
    """Find them in each part by its own thresholds."""
    examined, found = [], list[LabelError]()
    for part in parts:
        truth = [row for row in part.truth if row.id in part.shares]
        if not truth:
            continue
        examined.append(ExaminedPart(part.part, len(truth), part.raters))
        share_NK = np.array([part.shares[row.id] for row in truth], dtype=np.float64)
        label_N = np.array([scale.values.index(row.value) for row in truth])
        other_N = confident_labels(share_NK, label_N)
        for row, share_K, label, other in zip(truth, share_NK, label_N, other_N, strict=True):
            if other not in (-1, label):
                names = scale.labels[label], scale.labels[other]
                own, rival = float(share_K[label]), float(share_K[other])
                found.append(LabelError(row.id, part.part, names[0], own, names[1], rival))
    rows = sum(each.rows for each in examined)
    most = min(MOST, max(LEAST, math.ceil(SHARE * rows)))
    found.sort(key=lambda each: (each.expert_probability, each.part, each.id))
    return LabelErrors(tuple(examined), len(found), tuple(found[:most]))


def confident_labels(share_NK: NDArray[np.float64], label_N: NDArray[np.intp]) -> NDArray[np.intp]:
    """The likeliest label whose threshold each record reaches; -1 where it reaches none. Shape: (N,)."""
    threshold_K = np.array(
        [share_NK[own_N, k].mean() if (own_N := label_N == k).any() else np.inf for k in range(share_NK.shape[1])]
    )
    reached_NK = np.where(share_NK >= threshold_K, share_NK, -1.0)
    return np.where(reached_NK.max(axis=1) >= 0, reached_NK.argmax(axis=1), -1)
