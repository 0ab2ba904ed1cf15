"""Coverage of the conformal prediction sets on the test records."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.conformal import Conformal
from ..stats.intervals import Estimate, group_sums, wilson_clustered
from .compare import groups_of


@dataclass(frozen=True)
class LabelCoverage:
    """Share of a label's records whose set contains it; without `exact` the threshold is not a conformal one."""

    label: str
    covered: Estimate
    mean_size: float | None
    exact: bool


@dataclass(frozen=True)
class Coverage:
    """Coverage over all records; `single` and `empty` are the shares of sets with one label and with none."""

    nominal: float
    covered: Estimate
    mean_size: float
    single: Estimate
    empty: Estimate
    labels: tuple[LabelCoverage, ...]


def conformal_coverage(
    conformal: Conformal,
    truth: Sequence[Rating],
    rated: Sequence[Rated],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    confidence: float,
) -> Coverage:
    """Coverage of the sets of `rated`, matched to the expert's `truth` by id; at least one record is required."""
    by_id = {each.id: each for each in rated}
    sets = [conformal.labels_for(by_id[row.id].probabilities) for row in truth]
    group_N = groups_of([row.id for row in truth], groups)
    size_N = np.array([len(each) for each in sets], dtype=np.float64)
    held_N = np.array([row.label in each for row, each in zip(truth, sets, strict=True)])
    label_N = np.array([scale.values.index(row.value) for row in truth])

    def share(hit_N: np.ndarray, among_N: np.ndarray) -> Estimate:
        hits_G, rows_G = (group_sums(each_N.astype(np.float64), group_N)[0] for each_N in (hit_N & among_N, among_N))
        return wilson_clustered(hits_G, rows_G, confidence)

    every_N = np.ones(len(truth), dtype=bool)
    labels = []
    for at, label in enumerate(scale.labels):
        own_N = label_N == at
        mean = float(size_N[own_N].mean()) if own_N.any() else None
        labels.append(LabelCoverage(label, share(held_N, own_N), mean, conformal.exact[at]))
    return Coverage(
        nominal=conformal.coverage,
        covered=share(held_N, every_N),
        mean_size=float(size_N.mean()),
        single=share(size_N == 1, every_N),
        empty=share(size_N == 0, every_N),
        labels=tuple(labels),
    )
