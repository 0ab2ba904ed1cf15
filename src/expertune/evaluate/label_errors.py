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

from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.metrics import log_loss

MOST, SHARE = 100, 0.05  # records listed: this share of each part, and so many in all

Shares = Mapping[str, Sequence[float]]  # probabilities of the labels by record id
ByRater = Mapping[str, Sequence[Rated]]  # predictions by the rater's name


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
    def by_consensus(cls, part: str, truth: Sequence[Rating], raters: ByRater, scale: RatingScale) -> UnseenRatings:
        """The mean probabilities of the informative raters, of the records that the first of all raters has rated.

        A rater is informative if it rated all of these and its log-loss is below that of the labels' shares: one that
        is surely wrong (an untuned base) would else decide.
        """
        by_rater = {name: {each.id: each.probabilities for each in rated} for name, rated in raters.items()}
        first = next(iter(by_rater.values()), {})
        rows = [row for row in truth if row.id in first]
        labels = [scale.values.index(row.value) for row in rows]
        shares = [labels.count(k) / len(rows) for k in range(len(scale.labels))] if rows else []
        unaware = log_loss(labels, [shares] * len(rows)).sum()
        informative = {
            name: [own[row.id] for row in rows]
            for name, own in by_rater.items()
            if first.keys() <= own.keys()
            and log_loss(labels, [own[row.id] for row in rows]).sum() < unaware * (1 - 1e-9)
        }
        mean_NK = np.mean(list(informative.values()), axis=0).tolist() if informative else []
        return cls(part, tuple(informative), truth, {row.id: own for row, own in zip(rows, mean_NK, strict=False)})


def likely_label_errors(parts: Sequence[UnseenRatings], scale: RatingScale) -> LabelErrors:
    """Find them in each part by its own thresholds, and list the same share of each part: its raters differ in how sure
    they are."""
    rows = [sum(row.id in each.shares for row in each.truth) for each in parts]
    examined = [ExaminedPart(each.part, own, each.raters) for each, own in zip(parts, rows, strict=True) if own]
    share = min(SHARE, MOST / max(1, sum(rows)))
    found = [sorted(_errors_of(each, scale), key=_self_confidence) for each in parts]
    listed = [each for own, errors in zip(rows, found, strict=True) for each in errors[: math.ceil(share * own)]]
    return LabelErrors(tuple(examined), sum(map(len, found)), tuple(sorted(listed, key=_self_confidence)[:MOST]))


def _self_confidence(error: LabelError) -> tuple[float, str, str]:
    return error.expert_probability, error.part, error.id


def _errors_of(part: UnseenRatings, scale: RatingScale) -> list[LabelError]:
    truth = [row for row in part.truth if row.id in part.shares]
    if not truth:
        return []
    share_NK = np.array([part.shares[row.id] for row in truth], dtype=np.float64)
    label_N = np.array([scale.values.index(row.value) for row in truth])
    return [
        LabelError(
            row.id, part.part, scale.labels[label], float(share_K[label]), scale.labels[other], float(share_K[other])
        )
        for row, share_K, label, other in zip(
            truth, share_NK, label_N, confident_labels(share_NK, label_N), strict=True
        )
        if other not in (-1, label)
    ]


def confident_labels(share_NK: NDArray[np.float64], label_N: NDArray[np.intp]) -> NDArray[np.intp]:
    """The likeliest label whose threshold each record reaches; -1 where it reaches none. Shape: (N,)."""
    threshold_K = np.array(
        [share_NK[own_N, k].mean() if (own_N := label_N == k).any() else np.inf for k in range(share_NK.shape[1])]
    )
    reached_NK = np.where(share_NK >= threshold_K, share_NK, -1.0)
    return np.where(reached_NK.max(axis=1) >= 0, reached_NK.argmax(axis=1), -1)
