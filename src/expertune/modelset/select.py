"""Select few-shot examples: typical train rows first, then unlike ones, evenly over the labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..predict.tfidf_features import word_tfidf
from ..ratings.near_duplicates import same_texts
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating

LENGTH_SHARE = 0.6  # rows longer than this quantile are no examples: each one is paid for in every later prompt
# farthest-first alone picks oddities: the quarter of a class farthest from its centroid is left out
TYPICAL_SHARE = 0.75
MAX_TERMS = 20_000


def select(
    train: Sequence[Rating],
    scale: RatingScale,
    shots: int,
    *,
    seed: int,
    variant: int = 0,
    boundaries: Sequence[Rating] = (),
) -> list[Rating]:
    """At most `shots` rows, in the order in which they are to be shown.

    Each label gets the same number, as far as its rows reach, and the labels alternate, so that a prompt that must
    be cut can lose its last examples; `seed` decides which label comes first. Only short rows of unconflicted text
    are taken; a label whose rows are all long gives its shortest ones. Deterministic for the same rows in any order.
    `variant` begins with another typical row (0: the most typical). `boundaries` are train rows that come last and
    count as shots.
    """
    boundaries = list(boundaries)[: max(0, shots - len(scale.labels))]
    shots -= len(boundaries)
    last = {row.id for row in boundaries}
    pool = [row for row in unconflicted(train) if row.id not in last]
    if shots <= 0 or not pool:
        return []
    vectors_NV = _vectors([row.prompt for row in pool])
    longest = longest_shown(pool)
    counts = _allot([sum(row.value == value for row in pool) for value in scale.values], shots)
    chosen: list[list[Rating]] = []
    for value, count in zip(scale.values, counts, strict=True):
        members = [at for at, row in enumerate(pool) if row.value == value]
        chosen.append([pool[at] for at in _class_examples(vectors_NV, pool, members, longest, count, variant)])
    random.Random(seed).shuffle(chosen)
    rounds = max(map(len, chosen))
    return _alternate([*(rows[turn] for turn in range(rounds) for rows in chosen if turn < len(rows)), *boundaries])


def _alternate(rows: Sequence[Rating]) -> list[Rating]:
    """The same rows in nearly the same order, with no label twice in a row where that can be."""
    waiting, ordered = list(rows), []
    while waiting:
        other = (row for row in waiting if not ordered or row.value != ordered[-1].value)
        ordered.append(next(other, waiting[0]))
        waiting.remove(ordered[-1])
    return ordered


def unconflicted(train: Sequence[Rating]) -> list[Rating]:
    """One row for each text, ordered by row and id; no text that was rated in two ways, and no empty one."""
    rows = sorted((row for row in train if row.prompt.strip()), key=lambda row: (row.row, row.id))
    dropped: set[int] = set()
    for places in same_texts([row.prompt for row in rows]):
        conflict = len({rows[at].value for at in places}) > 1
        dropped.update(places if conflict else places[1:])
    return [row for at, row in enumerate(rows) if at not in dropped]


def length(row: Rating) -> int:
    """In characters, with the reason that is shown."""
    return len(row.prompt) + len(row.rationale)


def longest_shown(pool: Sequence[Rating]) -> int:
    """The length up to which a row counts as short."""
    ordered = sorted(map(length, pool))
    return ordered[round(LENGTH_SHARE * (len(ordered) - 1))]


def _allot(available: Sequence[int], shots: int) -> list[int]:
    """Number of examples of each label: one each in turn, the most frequent first, until `shots` or none is left."""
    counts = [0] * len(available)
    while sum(counts) < min(shots, sum(available)):
        open_labels = [at for at, rows in enumerate(available) if counts[at] < rows]
        counts[min(open_labels, key=lambda at: (counts[at], -available[at], at))] += 1
    return counts


def _class_examples(
    vectors_NV: Any, pool: Sequence[Rating], members: list[int], longest: int, count: int, variant: int
) -> list[int]:
    """`count` members: the one nearest to the class's centroid, then each time the one least like those chosen.

    `variant` 1 begins with the second nearest, and so on.
    """
    import numpy as np

    if count == 0:
        return []
    short = [at for at in members if length(pool[at]) <= longest]
    if len(short) < count:
        short = sorted(members, key=lambda at: length(pool[at]))[:count]
    # the centroid of all members, long ones too: they say as well what is typical
    centroid_V = np.asarray(vectors_NV[members].mean(axis=0)).ravel()
    nearness = vectors_NV[short] @ centroid_V
    ranked = [short[at] for at in sorted(range(len(short)), key=lambda at: (-round(float(nearness[at]), 9), at))]
    typical = ranked[: max(count, round(TYPICAL_SHARE * len(ranked)))]
    chosen = [typical[variant % len(typical)]]
    while len(chosen) < count:
        rest = [at for at in typical if at not in chosen]
        likeness = (vectors_NV[rest] @ vectors_NV[chosen].T).toarray().max(axis=1)
        chosen.append(rest[min(range(len(rest)), key=lambda at: (round(float(likeness[at]), 9), at))])
    return chosen


def _vectors(texts: Sequence[str]) -> Any:
    """TF-IDF rows of length 1 (sparse, float64); character groups where no text holds a word."""
    try:
        return word_tfidf(token_pattern=r"\w+", max_features=MAX_TERMS).fit_transform(texts)
    except ValueError:  # no word in any text: signs only
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(analyzer="char", max_features=MAX_TERMS).fit_transform(texts)
