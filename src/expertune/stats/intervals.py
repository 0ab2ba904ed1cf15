"""Intervals: Wilson for shares of rows, a t-interval for means of rows, a cluster bootstrap for everything else.

Rows of one group (patient, repeated text) are alike, so neither counts them as independent: Wilson's takes the share's
design effect into account (Rao and Scott 1992), the bootstrap draws whole groups. Of the resamples only the standard
error is used, in a t-interval on the logit scale; the percentiles of the resamples cover too seldom (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats, confusion, defined, kappa, macro_f1

_EDGE = 1e-6  # nearer to an end of its range a figure has no logit worth having
_CELLS = 4_000_000  # weights held at once: 32 MB, however many groups there are


class Statistic(NamedTuple):
    """A figure of confusion counts (confusion_XTP -> X) and the ends of its range."""

    of: Callable[[Floats], Floats]
    low: float
    high: float


MACRO_F1 = Statistic(macro_f1, 0.0, 1.0)
KAPPA = Statistic(kappa, -1.0, 1.0)


@dataclass(frozen=True)
class Interval:
    """`confidence` is the coverage aimed at, such as 0.95."""

    low: float
    high: float
    method: str
    confidence: float


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `value` is None where it is undefined (0/0), `n` the rows that it is about.

    `effective_n` is the number of independent rows that would say as much, where that is not `n`.
    """

    value: float | None
    interval: Interval | None
    n: int
    effective_n: float | None = None


def wilson(hits: int, n: int, confidence: float) -> Estimate:
    """A share with its Wilson score interval (statsmodels); undefined for n = 0."""
    return _wilson(hits, n, float(n), confidence)


def wilson_clustered(hits_G: Floats, rows_G: Floats, confidence: float) -> Estimate:
    """As `wilson`, from the counts of each group: the interval is that of n / design effect independent rows.

    The design effect is the variance of the share as a ratio of group totals over that of independent rows, never
    below 1. Where no row or every row hits it cannot be estimated, and each group counts as one row.
    """
    there_G = rows_G > 0
    hits_G, rows_G = hits_G[there_G], rows_G[there_G]
    hits, n, groups = int(hits_G.sum()), int(rows_G.sum()), len(rows_G)
    effective = float(n)
    if groups < n:
        share = hits / n
        if hits in (0, n) or groups == 1:
            effective = float(groups)
        else:
            spread = groups / (groups - 1) * float(np.square(hits_G - share * rows_G).sum())
            effective = n / max(1.0, spread / (n * share * (1 - share)))
    return _wilson(hits, n, effective, confidence)


def _wilson(hits: int, n: int, effective: float, confidence: float) -> Estimate:
    from statsmodels.stats.proportion import proportion_confint

    if n == 0:
        return Estimate(None, None, 0)
    share = hits / n
    ends = proportion_confint(share * effective, effective, alpha=1 - confidence, method="wilson")
    low, high = np.asarray(ends, dtype=np.float64).tolist()
    method = "Wilson" if effective == n else f"Wilson, as of {effective:.1f} independent rows"
    # rounding may put an end of the interval a bit inside the estimate (0 or n hits)
    interval = Interval(max(0.0, min(low, share)), min(1.0, max(high, share)), method, confidence)
    return Estimate(share, interval, n, None if effective == n else effective)


def mean_clustered(sum_G: Floats, rows_G: Floats, confidence: float) -> Estimate:
    """A mean over rows of something that is never negative, from each group's sum and number of rows.

    Student's t over the groups with the linearised standard error of a ratio (Cochran 1977, chapter 6), on the log
    scale. No interval where nothing varies or there is one group.
    """
    from scipy.stats import t

    n, groups = int(rows_G.sum()), len(rows_G)
    if n == 0:
        return Estimate(None, None, 0)
    mean = float(sum_G.sum()) / n
    error = _error_of_mean(mean, sum_G, rows_G)
    if error is None or mean <= 0:
        return Estimate(mean, None, n)
    reach = math.exp(float(t.ppf((1 + confidence) / 2, groups - 1)) * error / mean)
    return Estimate(mean, Interval(mean / reach, mean * reach, f"t on the log scale, {groups} groups", confidence), n)


def difference_clustered(difference_N: Floats, groups: Sequence[Hashable], confidence: float) -> Estimate:
    """The mean of differences of either sign, paired by row; as `mean_clustered`, but on the plain scale."""
    from scipy.stats import t

    sum_G, rows_G = group_sums(difference_N, groups)
    mean = float(np.mean(difference_N))
    error = _error_of_mean(mean, sum_G, rows_G)
    if error is None:
        return Estimate(mean, None, len(difference_N))
    reach = float(t.ppf((1 + confidence) / 2, len(rows_G) - 1)) * error
    return Estimate(
        mean, Interval(mean - reach, mean + reach, f"paired t, {len(rows_G)} groups", confidence), len(difference_N)
    )


def group_sums(value_N: Floats, groups: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum of the values and number of the rows of each group."""
    group_N = _numbered(groups)
    return np.bincount(group_N, weights=value_N).astype(np.float64), np.bincount(group_N).astype(np.float64)


def _numbered(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    number = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    return np.array([number[group] for group in groups], dtype=np.intp)


def _error_of_mean(mean: float, sum_G: Floats, rows_G: Floats) -> float | None:
    """Linearised standard error of a mean over rows in groups; None where nothing varies or there is one group."""
    groups, apart_G = len(rows_G), sum_G - mean * rows_G
    if groups < 2 or np.abs(apart_G).max() < 1e-12:
        return None
    return math.sqrt(groups / (groups - 1) * float(np.square(apart_G).sum())) / float(rows_G.sum())


@dataclass(frozen=True)
class Clusters:
    """One rater's confusion counts by group of rows that belong together. `counts_GTP` holds whole rows only."""

    counts_GTP: Floats

    @property
    def total_TP(self) -> Floats:
        return self.counts_GTP.sum(axis=0)


def clusters(truth: Sequence[int], predicted: Sequence[int], labels: int, groups: Sequence[Hashable]) -> Clusters:
    """Confusion counts by group; `truth` and `predicted` are label indices, `groups` the group of each row."""
    return Clusters(confusion(truth, predicted, labels, _numbered(groups), len(set(groups))))


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
        parts.append(np.stack([statistic.of(drawn_BRTP) for statistic in statistics]))
    return np.concatenate(parts, axis=1).transpose(2, 0, 1)


def bootstrap(
    rater: Clusters, statistics: Sequence[Statistic], count: int, seed: int, confidence: float
) -> list[Estimate]:
    """Each statistic of one rater with its interval from a cluster bootstrap."""
    values_SB = resamples([rater], statistics, count, seed)[0]
    groups, rows = len(rater.counts_GTP), int(rater.total_TP.sum())
    found = []
    for statistic, values_B in zip(statistics, values_SB, strict=True):
        value = defined(statistic.of(rater.total_TP).item())
        ends = (statistic.low, statistic.high)
        found.append(Estimate(value, bootstrap_interval(value, values_B, ends, groups, confidence), rows))
    return found


def paired(
    first: Clusters, second: Clusters, statistic: Statistic, count: int, seed: int, confidence: float
) -> Estimate:
    """The statistic of `first` less that of `second`, on the same rows, with a paired cluster-bootstrap interval."""
    values_RB = resamples([first, second], [statistic], count, seed)[:, 0]
    value = defined((statistic.of(first.total_TP) - statistic.of(second.total_TP)).item())
    width = statistic.high - statistic.low
    apart_B, groups = values_RB[0] - values_RB[1], len(first.counts_GTP)
    interval = bootstrap_interval(value, apart_B, (-width, width), groups, confidence)
    return Estimate(value, interval, int(first.total_TP.sum()))


def bootstrap_interval(
    value: float | None, values_B: NDArray[np.float64], ends: tuple[float, float], groups: int, confidence: float
) -> Interval | None:
    """Student's t over the groups with the resamples' standard error, on the logit scale of the figure's range.

    None where the resamples are all alike: a rater without a fault (or a single group) gives resamples without a
    spread, and an interval of no width would claim a certainty that nobody has.
    """
    from scipy.stats import t

    sound = values_B[np.isfinite(values_B)]
    if value is None or groups < 2 or sound.size < 2 or np.ptp(sound) < 1e-12:
        return None
    width = ends[1] - ends[0]
    share = (value - ends[0]) / width
    # resamples spread less than new samples of as many groups would, by this factor
    error = float(sound.std(ddof=1)) / width * math.sqrt(groups / (groups - 1))
    reach = float(t.ppf((1 + confidence) / 2, groups - 1)) * error
    if min(share, 1 - share) < _EDGE:
        low, high = max(0.0, share - reach), min(1.0, share + reach)
    else:
        middle, step = math.log(share / (1 - share)), reach / (share * (1 - share))
        low, high = (0.5 + 0.5 * math.tanh(x / 2) for x in (middle - step, middle + step))
    method = f"t on the logit scale, standard error of {len(values_B)} cluster resamples, {groups} groups"
    return Interval(ends[0] + width * low, ends[0] + width * high, method, confidence)
