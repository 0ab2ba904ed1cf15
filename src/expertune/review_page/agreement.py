"""Agreement of the experts, what they decided, and how often the model is wrong where it was confident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from ..stats.intervals import Estimate, wilson
from ..stats.metrics import confusion, defined, kappa

CONFIDENCE_LEVEL = 0.95
ByExpert = Mapping[str, int]  # an expert's rating of one record, by name


class Agreement(NamedTuple):
    """Of two experts on the `records` that both rated before they knew anything of each other or the model.

    `kappa` is Cohen's, None where chance alone would always agree.
    """

    first: str
    second: str
    records: int
    agreed: int
    kappa: float | None

    @property
    def share(self) -> float:
        return self.agreed / self.records


def agreements(rated: Iterable[ByExpert], values: Sequence[int]) -> list[Agreement]:
    """Each pair of experts with a record in common, the pair with most of them first."""
    at = {value: place for place, value in enumerate(values)}
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for own in rated:
        for first, second in combinations(sorted(own), 2):
            pairs.setdefault((first, second), []).append((at[own[first]], at[own[second]]))
    found = []
    for names, both in pairs.items():
        one, other = zip(*both, strict=True)
        agreed = sum(a == b for a, b in both)
        found.append(Agreement(*names, len(both), agreed, defined(kappa(confusion(one, other, len(values))).item())))
    return sorted(found, key=lambda each: (-each.records, each.first, each.second))


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
