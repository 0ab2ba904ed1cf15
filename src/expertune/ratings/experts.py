"""Ratings of several experts of the same records: the label that is kept, and how far the experts agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..config import Config
from ..stats.agreement import ALPHA, coincidences
from ..stats.intervals import KAPPA, Estimate, bootstrap, clusters, wilson_clustered
from .scale import RatingScale

SHOWN_IDS = 5


@dataclass(frozen=True)
class ExpertRatings:
    """The records of a file by expert, in its order. `values` and `rationales` have an entry for each expert.

    `adjudicated` is the label on which the experts settled, None where there is none. `groups` are the patients.
    `own_ids` is False where row numbers stand for ids.
    """

    experts: tuple[str, ...]
    ids: tuple[str, ...]
    own_ids: bool
    prompts: tuple[str, ...]
    values: tuple[tuple[int | None, ...], ...]
    rationales: tuple[tuple[str, ...], ...]
    adjudicated: tuple[int | None, ...]
    groups: tuple[Hashable, ...]

    def kept(self) -> list[int | None]:
        """The label of each record for training and testing: the adjudicated one, else the majority's, else None."""
        labels = zip(self.adjudicated, self.values, strict=True)
        return [majority(values) if settled is None else settled for settled, values in labels]

    def kept_rationales(self) -> list[str]:
        """Of each record the first rationale of an expert who gave the kept label; "" if there is none.

        A single rationale column is not one expert's: it is taken as it is.
        """
        if all(len(whys) < 2 for whys in self.rationales):
            return ["".join(whys) for whys in self.rationales]
        return [
            next((why for value, why in zip(values, whys, strict=True) if why and value == kept), "")
            for kept, values, whys in zip(self.kept(), self.values, self.rationales, strict=True)
        ]

    def tied(self) -> list[str]:
        """The ids of the records without a kept label."""
        return [id for id, kept in zip(self.ids, self.kept(), strict=True) if kept is None]

    def tied_note(self) -> tuple[str, ...]:
        """A message about the records that are left out."""
        if not (tied := self.tied()):
            return ()
        shown = ", ".join(tied[:SHOWN_IDS]) + (f" and {len(tied) - SHOWN_IDS} more" if len(tied) > SHOWN_IDS else "")
        return (
            f"warning: {len(tied)} of {len(self.ids)} records are left out of training and testing: no rating has most "
            f"votes and none was adjudicated (ids {shown}); expertune check --adjudicate FILE lists them",
        )


def majority(values: Sequence[int | None]) -> int | None:
    """The value that more experts gave than any other; None for a tie or without a rating."""
    first = Counter(value for value in values if value is not None).most_common(2)
    return None if not first or (len(first) == 2 and first[0][1] == first[1][1]) else first[0][0]


@dataclass(frozen=True)
class PairAgreement:
    """Two experts on the `records` that both rated: share of the same ratings, and Cohen's kappa."""

    first: str
    second: str
    records: int
    same: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class ExpertAgreement:
    """How far several experts agree; `rated` counts each expert's records, `tied` are left out of training and testing.

    `disagreements` are the records with two different ratings or more, `adjudicated` those with a settled label.
    """

    records: int
    rated: dict[str, int]
    rated_by_several: int
    disagreements: int
    adjudicated: int
    tied: int
    pairs: tuple[PairAgreement, ...]
    alpha: Estimate

    def lines(self) -> list[str]:
        """The lines for the terminal."""
        rated = ", ".join(f"{expert} rated {count}" for expert, count in self.rated.items())
        alpha = f"{_figure(self.alpha)} on the {self.rated_by_several} records with two ratings or more"
        return [
            f"{self.records} records of {len(self.rated)} experts: {rated}; they differ on {self.disagreements}, "
            f"{self.adjudicated} adjudicated, {self.tied} tied",
            *(
                f"{each.first} and {each.second}: {_figure(each.same, percent=True)} the same, Cohen's kappa "
                f"{_figure(each.kappa)}, on {each.records} records that both rated"
                for each in self.pairs
            ),
            f"Krippendorff's alpha (nominal): {alpha}",
        ]


def expert_agreement(panel: ExpertRatings, scale: RatingScale, config: Config) -> ExpertAgreement:
    """Agreement of the experts on all records of the file, those that are left out included."""
    labels, level = len(scale.labels), config.confidence_level
    resampling = (config.bootstrap_resamples, config.seed, level)
    at = {value: place for place, value in enumerate(scale.values)}
    values_NE = np.array([[-1 if value is None else at[value] for value in row] for row in panel.values])

    def pair(first: int, second: int) -> PairAgreement:
        both = np.flatnonzero((values_NE[:, (first, second)] >= 0).all(axis=1)).tolist()
        same = kappa = Estimate(None, None, 0)
        if both:
            one, other = (values_NE[both, expert].tolist() for expert in (first, second))
            counts = clusters(one, other, labels, [panel.groups[row] for row in both])
            hits_G, rows_G = counts.counts_GTP.trace(axis1=1, axis2=2), counts.counts_GTP.sum(axis=(1, 2))
            same = wilson_clustered(hits_G, rows_G, level)
            (kappa,) = bootstrap(counts, [KAPPA], *resampling)
        return PairAgreement(panel.experts[first], panel.experts[second], len(both), same, kappa)

    given = [{value for value in row if value is not None} for row in panel.values]
    several = int(((values_NE >= 0).sum(axis=1) > 1).sum())
    (alpha,) = (
        bootstrap(coincidences(values_NE, labels, panel.groups), [ALPHA], *resampling)
        if several
        else [Estimate(None, None, 0)]
    )
    return ExpertAgreement(
        records=len(panel.ids),
        rated={name: int((values_NE[:, e] >= 0).sum()) for e, name in enumerate(panel.experts)},
        rated_by_several=several,
        disagreements=sum(len(values) > 1 for values in given),
        adjudicated=sum(settled is not None for settled in panel.adjudicated),
        tied=len(panel.tied()),
        pairs=tuple(pair(*experts) for experts in combinations(range(len(panel.experts)), 2)),
        alpha=replace(alpha, n=several),
    )


def _figure(estimate: Estimate, *, percent: bool = False) -> str:
    """A figure with its interval, or the reason why there is none."""
    if estimate.value is None:
        return "undefined (all ratings are the same)" if estimate.n else "undefined (no record has two ratings)"

    def shown(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.3f}"

    interval = estimate.interval
    if interval is None:
        return f"{shown(estimate.value)} (no interval: the resamples do not differ)"
    return f"{shown(estimate.value)} [{shown(interval.low)} to {shown(interval.high)}]"
