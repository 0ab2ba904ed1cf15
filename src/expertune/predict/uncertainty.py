"""Uncertainty of a product's predictions: fitted once on validation and training rows, kept in the run's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..stats.calibration import Calibration, fit_calibration
from ..stats.conformal import Conformal, fit_conformal
from ..stats.ood import NoveltyDetector, fit_novelty_detector
from .score import Rated


@dataclass(frozen=True)
class Uncertainty:
    """Each part is None where the run did not fit it."""

    calibration: Calibration | None = None
    conformal: Conformal | None = None
    novelty: NoveltyDetector | None = None

    def notes(self) -> list[str]:
        """One line for each part that is missing or weak."""
        lines = []
        if self.calibration is None:
            lines.append("probabilities are not calibrated: this run learnt no calibration")
        elif not self.calibration.changes:
            lines.append(f"probabilities are as the model gives them: {self.calibration.note}")
        if self.conformal is None:
            lines.append("there are no conformal sets: this run learnt no thresholds")
        else:
            lines += self.conformal.notes()
        if self.novelty is None:
            lines.append("novelty is not looked at: this run kept no sketch of its training rows")
        return lines


def fit_uncertainty(
    rated: Sequence[Rated], train: Sequence[Example], dev: Sequence[Example], scale: RatingScale, *, seed: int = 0
) -> Uncertainty:
    """Fit on a product's predictions of the validation rows, in the order of `dev`. No test row may be among them."""
    probabilities = [each.probabilities for each in rated]
    truth = [scale.values.index(example.value) for example in dev]
    return Uncertainty(
        fit_calibration(probabilities, truth, seed=seed),
        # by the uncalibrated probabilities: what was fitted on the same rows would be a little too sure of them
        fit_conformal(probabilities, truth, scale.labels),
        fit_novelty_detector(*([example.record for example in part] for part in (train, dev))),
    )


def checked_uncertainty(found: Uncertainty | None, scale: RatingScale) -> Uncertainty:
    """`found` as a run's record holds it; without parts where it is None. Raises UsageError where it does not fit."""
    if found is None:
        return Uncertainty()
    fits = (found.calibration is None or len(found.calibration.bias) == len(scale.labels)) and (
        found.conformal is None or found.conformal.labels == scale.labels
    )
    if not fits:
        raise UsageError(
            'fine_tuning_metadata.json: its part "rating" does not fit the labels; run expertune tune again'
        )
    return found
