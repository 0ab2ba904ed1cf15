"""Signals from the train rows alone: words of each label, boundary cases, and the raters by word counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..ratings.scale import RatingScale
from ..ratings.schema import Rating, Split
from .records import ContextSummary, WordPool
from .select import length, longest_shown, unconflicted
from .terms import summarise
from .word_pool import FittedWords, fit_words, pool_words

MOST_ROWS = 3000  # whose out-of-fold probabilities are looked at: seconds, whatever the data's size


@dataclass(frozen=True)
class TrainingSignals:
    """`summary` and `tfidf` become the parts of these names; None where the rows did not give them.

    `boundaries` are rows that word counts can hardly classify, one for each pair of labels, the most often confused
    first. `out_of_fold` has the raters' pooled probabilities by row id, of fits that saw no row of the same group.
    """

    summary: ContextSummary | None
    boundaries: tuple[Rating, ...]
    tfidf: WordPool | None
    out_of_fold: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


NOTHING = TrainingSignals(None, (), None)


def gather(split: Split, scale: RatingScale, *, seed: int, words: FittedWords | None = None) -> TrainingSignals:
    """From the train rows alone; `words` are the raters by word counts where they are fitted already."""
    train = sorted(split.train, key=lambda row: (row.row, row.id))
    summary = summarise(train, scale, split.groups)
    words = words or fit_words(train, scale, split.groups, seed=seed, most=MOST_ROWS)
    pool, shares = pool_words(words, scale) if words else (None, {})
    return TrainingSignals(
        summary if any(each.terms for each in summary.labels) else None,
        tuple(boundary_rows(train, scale, shares)),
        pool,
        shares,
    )


def boundary_rows(train: Sequence[Rating], scale: RatingScale, shares: Mapping[str, tuple[float, ...]]) -> list[Rating]:
    """For each pair of labels that is confused, its short row whose two out-of-fold probabilities are nearest.

    The nearest, and not the worst: a row that is wrong by far is more often wrongly rated than instructive.
    """
    pool = [row for row in unconflicted(train) if row.id in shares]
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
