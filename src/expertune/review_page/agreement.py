"""Agreement of the experts, what they decided, and how often the model is wrong where it was confident."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..stats.intervals import KAPPA, Clusters, Estimate, Interval, bootstrap_interval, clusters, wilson
from ..stats.metrics import defined

CONFIDENCE_LEVEL = 0.95
RESAMPLES, SEED = 1000, 42  # fixed, so that the interval changes with the ratings only
ByExpert = Mapping[str, int]  # an expert's rating of one record, by name


class Agreement(NamedTuple):
    """Of two experts on the `records` that both rated before they knew anything of each other or the model.

    `kappa` is Cohen's, None where chance alone would always agree. `kappa_interval` is that of a cluster bootstrap.
    """

    first: str
    second: str
    records: int
    agreed: int
    kappa: float | None
    kappa_interval: Interval | None

    @property
    def share(self) -> float:
        return self.agreed / self.records


def agreements(
    rated: Iterable[tuple[Hashable, ByExpert]], values: Sequence[int], most: int | None = None
) -> list[Agreement]:
    """Each pair of experts with a record in common, the pair with most of them first; at most `most` of them.

    Of each record its group (the patient, where the file names one) and its ratings.
    """
    at = {value: place for place, value in enumerate(values)}
    pairs: dict[tuple[str, str], list[tuple[int, int, Hashable]]] = {}
    for group, own in rated:
        for first, second in combinations(sorted(own), 2):
            pairs.setdefault((first, second), []).append((at[own[first]], at[own[second]], group))
    found = []
    for names, both in sorted(pairs.items(), key=lambda each: (-len(each[1]), each[0]))[:most]:
        one, other, groups = zip(*both, strict=True)
        counts = clusters(one, other, len(values), groups)
        agreed = sum(a == b for a, b, _ in both)
        found.append(Agreement(*names, len(both), agreed, *_kappa(counts)))
    return found


def _kappa(counts: Clusters) -> tuple[float | None, Interval | None]:
    """Cohen's kappa and its interval, fast enough for each key: groups with the same counts are drawn as one."""
    labels, groups = counts.counts_GTP.shape[-1], len(counts.counts_GTP)
    counts_KX, alike_K = np.unique(counts.counts_GTP.reshape(groups, -1), axis=0, return_counts=True)
    drawn_BK = np.random.default_rng(SEED).multinomial(groups, alike_K / groups, size=RESAMPLES)
    values_B = KAPPA.of((drawn_BK @ counts_KX).reshape(RESAMPLES, labels, labels))
    value = defined(KAPPA.of(counts.total_TP).item())
    return value, bootstrap_interval(value, values_B, (KAPPA.low, KAPPA.high), groups, CONFIDENCE_LEVEL)


def sample_error(sampled: Iterable[tuple[int, ByExpert, int | None]]) -> Estimate | None:
    """The share of the random sample of confident records on which the experts differ from the model (Wilson).

    Of each record the model's value, the experts' ratings before they saw it, and what was adjudicated. A record on
    which the experts differ counts once it is adjudicated. None before the first record counts.
    """
    wrong = []
    for model, own, decided in sampled:
        values = set(own.values()) if decided is None else {decided}
        if len(values) == 1:
            wrong.append(values != {model})
    return wilson(sum(wrong), len(wrong), CONFIDENCE_LEVEL) if wrong else None
