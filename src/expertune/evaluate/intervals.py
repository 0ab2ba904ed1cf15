"""Intervals: Wilson for shares of rows, a cluster bootstrap for everything that is not a share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats, confusion, defined

Statistic = Callable[[Floats], Floats]  # confusion_XTP -> X
_CELLS = 4_000_000  # weights held at once: 32 MB, however many groups there are


@dataclass(frozen=True)
class Interval:
    """`confidence` is the coverage aimed at, such as 0.95."""

    low: float
    high: float
    method: str
    confidence: float


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `value` is None where it is undefined (0/0), `n` the rows that it is about."""

    value: float | None
    interval: Interval | None
    n: int


def wilson(hits: int, n: int, confidence: float) -> Estimate:
    """A share with its Wilson score interval (statsmodels); undefined for n = 0."""
    from statsmodels.stats.proportion import proportion_confint

    if n == 0:
        return Estimate(None, None, 0)
    ends = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    low, high = np.asarray(ends, dtype=np.float64).tolist()
    share = hits / n
    # rounding may put an end of the interval a bit inside the estimate (0 or n hits)
    return Estimate(share, Interval(max(0.0, min(low, share)), min(1.0, max(high, share)), "Wilson", confidence), n)


@dataclass(frozen=True)
class Clusters:
    """One rater's confusion counts by group of rows that belong together. `counts_GTP` holds whole rows only."""

    counts_GTP: Floats

    @property
    def total_TP(self) -> Floats:
        return self.counts_GTP.sum(axis=0)


def clusters(truth: Sequence[int], predicted: Sequence[int], labels: int, groups: Sequence[Hashable]) -> Clusters:
    """Confusion counts by group; `truth` and `predicted` are label indices, `groups` the group of each row."""
    number = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([number[group] for group in groups], dtype=np.intp)
    return Clusters(confusion(truth, predicted, labels, rows, len(number)))


def resamples(raters: Sequence[Clusters], statistics: Sequence[Statistic], count: int, seed: int) -> Floats:
    """Bootstrap values, groups drawn with replacement. Shape: (raters, statistics, count).

    All raters see the same draws, so differences between them are paired. A draw is a vector of group weights
    (multinomial), which turns resampling into one matrix product.
    """
    groups, labels = raters[0].counts_GTP.shape[:2]
    flat_GX = np.concatenate([rater.counts_GTP.reshape(groups, -1) for rater in raters], axis=1)
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS // groups)
    parts: list[Floats] = []
    for start in range(0, count, chunk):
        draws = min(chunk, count - start)
        weight_BG = random.multinomial(groups, np.full(groups, 1 / groups), size=draws)
        drawn_BRTP = (weight_BG.astype(np.float64) @ flat_GX).reshape(draws, len(raters), labels, labels)
        parts.append(np.stack([statistic(drawn_BRTP) for statistic in statistics]))
    return np.concatenate(parts, axis=1).transpose(2, 0, 1)


def bootstrap(
    rater: Clusters, statistics: Sequence[Statistic], count: int, seed: int, confidence: float
) -> list[Estimate]:
    """Each statistic of one rater with its percentile interval from a cluster bootstrap."""
    values_SB = resamples([rater], statistics, count, seed)[0]
    rows = int(rater.total_TP.sum())
    return [
        Estimate(
            defined(statistic(rater.total_TP).item()), percentiles(values_B, confidence, len(rater.counts_GTP)), rows
        )
        for statistic, values_B in zip(statistics, values_SB, strict=True)
    ]


def paired(
    first: Clusters, second: Clusters, statistic: Statistic, count: int, seed: int, confidence: float
) -> Estimate:
    """The statistic of `first` less that of `second`, on the same rows, with a paired cluster-bootstrap interval."""
    values_RB = resamples([first, second], [statistic], count, seed)[:, 0]
    difference = statistic(first.total_TP) - statistic(second.total_TP)
    return Estimate(
        defined(difference.item()),
        percentiles(values_RB[0] - values_RB[1], confidence, len(first.counts_GTP)),
        int(first.total_TP.sum()),
    )


def percentiles(values_B: NDArray[np.float64], confidence: float, groups: int) -> Interval | None:
    """The middle `confidence` of the defined resamples.

    None where they are all alike: a rater without a fault (or a single group) gives resamples without a spread,
    and an interval of no width would claim a certainty that nobody has.
    """
    sound = values_B[np.isfinite(values_B)]
    if sound.size == 0 or np.ptp(sound) < 1e-12:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(sound, [tail, 1 - tail])
    return Interval(
        float(low), float(high), f"cluster bootstrap, {len(values_B)} resamples of {groups} groups", confidence
    )
