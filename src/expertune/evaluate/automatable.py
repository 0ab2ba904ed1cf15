"""Automatable share: how many records may be rated without a person at a stated error rate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.calibration import Calibration
from ..stats.intervals import Estimate
from ..stats.selective import Outcomes, Selection, fewest_records, select
from .compare import groups_of


@dataclass(frozen=True)
class AutomatableShare:
    """Share of the records whose Confidence (as `expertune rate` writes it) reaches `threshold`.

    With `confidence_level` the error rate of their ratings is at most `max_error_rate`. `error` is that of the test
    records, `error_bound` its one-sided upper bound. Threshold and figures are None where the `records` kept back for
    testing prove no share; at least `fewest_records` without an error are needed.
    """

    max_error_rate: float
    confidence_level: float
    records: int
    fewest_records: int
    threshold: float | None = None
    share: Estimate | None = None
    error: Estimate | None = None
    error_bound: float | None = None

    def line(self) -> str:
        """Say it in one sentence."""
        limit = f"at an error rate of at most {self.max_error_rate:.3g} ({self.confidence_level:.3g} confidence)"
        if self.share is None or self.share.value is None or self.share.interval is None or self.error is None:
            return (
                f"Automatable {limit}: none proved; at least {self.fewest_records} accepted records without an error "
                f"are needed, and {self.records} were kept back for testing."
            )
        interval = self.share.interval
        wrong = round((self.error.value or 0.0) * self.error.n)
        return (
            f"Automatable {limit}: {self.share.value:.0%} of the records [{interval.low:.0%} to {interval.high:.0%}], "
            f"those with a Confidence of {self.threshold:.6g} or more ({wrong} of {self.error.n} test records wrong)."
        )


def automatable_share(
    dev: tuple[Sequence[Rating], Sequence[Rated]],
    test: tuple[Sequence[Rating], Sequence[Rated]],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    calibration: Calibration | None,
    config: Config,
) -> AutomatableShare:
    """Choose thresholds on the validation records and prove one on the test records; each pair is truth and ratings."""
    limits = (config.max_error_rate, config.confidence_level)
    rows = [row.id for row in test[0]]
    found = select(
        _outcomes(*dev, scale, calibration),
        _outcomes(*test, scale, calibration),
        groups_of(rows, groups),
        max_error=limits[0],
        confidence=limits[1],
    )
    least = (len(rows), fewest_records(*limits))
    return AutomatableShare(*limits, *least) if found is None else AutomatableShare(*limits, *least, *_figures(found))


def _figures(found: Selection) -> tuple[float, Estimate, Estimate, float]:
    return found.threshold, found.share, found.error, found.error_bound


def _outcomes(
    truth: Sequence[Rating], rated: Sequence[Rated], scale: RatingScale, calibration: Calibration | None
) -> Outcomes:
    """Confidence and errors of the ratings that `expertune rate` would write, in the order of `truth`."""
    by_id = {each.id: each for each in rated}
    pairs = [(row, by_id[row.id]) for row in truth if row.id in by_id]
    shares = [calibration.apply(own.probabilities) if calibration else own.probabilities for _, own in pairs]
    written = [scale.labels.index(own.label) for _, own in pairs]
    confidence = [round(each[at], 6) for each, at in zip(shares, written, strict=True)]
    wrong = [own.value != row.value for row, own in pairs]
    return Outcomes(np.array(confidence, dtype=np.float64), np.array(wrong, dtype=np.bool_))
