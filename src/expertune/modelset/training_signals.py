"""Signals from the train rows alone: words of each label, boundary cases, and the TF-IDF classifier."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..ratings.scale import RatingScale
from ..ratings.schema import Rating, Split
from .records import ContextSummary, TfidfTables
from .select import length, longest_shown, unconflicted
from .terms import summarise
from .tfidf_classifier import fit_tfidf, out_of_fold

MOST_ROWS = 3000  # whose out-of-fold probabilities are looked at: seconds, whatever the data's size


@dataclass(frozen=True)
class TrainingSignals:
    """`summary` and `tfidf` become the parts of these names; None where the rows did not give them.

    `boundaries` are rows that TF-IDF can hardly classify, one for each pair of labels, the most often confused first.
    `out_of_fold` has TF-IDF's probabilities by row id, of fits that saw no row of the same group.
    """

    summary: ContextSummary | None
    boundaries: tuple[Rating, ...]
    tfidf: TfidfTables | None
    out_of_fold: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


NOTHING = TrainingSignals(None, (), None)


def gather(split: Split, scale: RatingScale, *, seed: int) -> TrainingSignals:
    """From the train rows alone."""
    train = sorted(split.train, key=lambda row: (row.row, row.id))
    summary = summarise(train, scale, split.groups)
    shares = cross_validated(train, scale, split.groups, seed=seed)
    return TrainingSignals(
        summary if any(each.terms for each in summary.labels) else None,
        tuple(boundary_rows(train, scale, shares)),
        fit_tfidf(train, scale, seed=seed),
        shares,
    )


def cross_validated(
    train: Sequence[Rating], scale: RatingScale, groups: Mapping[str, str], *, seed: int
) -> dict[str, tuple[float, ...]]:
    """Out-of-fold probabilities of TF-IDF, by row id; of a sample of MOST_ROWS rows where there are more."""
    pool = unconflicted(train)
    if len(pool) > MOST_ROWS:
        pool = sorted(random.Random(seed).sample(pool, MOST_ROWS), key=lambda row: (row.row, row.id))
    return dict(zip((row.id for row in pool), out_of_fold(pool, scale, groups, seed=seed), strict=False))


def boundary_rows(train: Sequence[Rating], scale: RatingScale, shares: Mapping[str, tuple[float, ...]]) -> list[Rating]:
    """For each pair of labels that is confused, its short row whose two out-of-fold probabilities are nearest.

    The nearest, and not the worst: a row that is wrong by far is more often wrongly rated than instructive.
    """
    pool = [row for row in train if row.id in shares]
    if not pool:
        return []
    longest = longest_shown(pool)
    confused: Counter[tuple[int, int]] = Counter()
    near: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for at, row in enumerate(pool):
        share = shares[row.id]
        true = scale.values.index(row.value)
        first, second = sorted(range(len(share)), key=lambda k: -share[k])[:2]
        confused[_pair(true, first)] += true != first
        if true in (first, second) and length(row) <= longest:
            near.setdefault(_pair(first, second), []).append((share[first] - share[second], at))
    pairs = [pair for pair, errors in sorted(confused.items(), key=lambda each: (-each[1], each[0])) if errors]
    return [pool[min(near[pair])[1]] for pair in pairs if pair in near]


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)
