"""The ensemble of the tuned model and the readout: a weighted mean of their log-probabilities (docs/decisions/0019).

Axes: N record · K label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..predict.score import Pass, Prediction, Rated, Scorer
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..record import EnsembleInfo
from ..stats.metrics import log_loss
from .record import Floats, fuse

NAME = "ensemble"
TUNED_WEIGHTS = (0.25, 0.5, 0.75)  # the readout has the rest; 0 and 1 are the members alone


@dataclass(frozen=True)
class Ensemble:
    """Weight of the tuned model with the lowest log-loss on the validation records, `losses` by weight, and its pass
    over these records."""

    tuned_weight: float
    losses: dict[float, float]
    dev: Pass

    @property
    def info(self) -> EnsembleInfo:
        """What the run's record says of it."""
        losses = {str(weight): loss for weight, loss in self.losses.items()}
        return EnsembleInfo(tuned_weight=self.tuned_weight, log_loss=losses)

    def fuse(self, tuned: Pass, readout: Pass, scale: RatingScale) -> Pass:
        """Fuse two passes over the same records."""
        return fused_pass(tuned, readout, self.tuned_weight, scale)


def fit_ensemble(tuned: Pass, readout: Pass, truth: Sequence[Rating], scale: RatingScale) -> Ensemble:
    """Choose the weight on the validation records, which both passes rated."""
    passes = {weight: fused_pass(tuned, readout, weight, scale) for weight in TUNED_WEIGHTS}
    label_of = {row.id: scale.values.index(row.value) for row in truth}

    def loss(rated: Sequence[Rated]) -> float:
        return float(np.mean(log_loss([label_of[each.id] for each in rated], [each.probabilities for each in rated])))

    losses = {weight: loss(each.rated) for weight, each in passes.items()}
    best = min(losses, key=losses.__getitem__)
    return Ensemble(best, losses, passes[best])


def fused_pass(tuned: Pass, readout: Pass, tuned_weight: float, scale: RatingScale) -> Pass:
    """Fuse two passes over the same records; their times add up."""
    by_readout = {each.id: each.probabilities for each in readout.rated}
    both = [each for each in tuned.rated if each.id in by_readout]
    shares_NK = _fused([each.probabilities for each in both], [by_readout[each.id] for each in both], tuned_weight)
    rated = [Rated.of(each.id, own, scale, exact=each.exact) for each, own in zip(both, shares_NK, strict=True)]
    seconds = tuned.seconds + readout.seconds
    return Pass(tuple(rated), seconds, len(rated) / seconds if seconds > 0 else 0.0, tuned.prompt_tokens)


def _fused(tuned: Sequence[Sequence[float]], readout: Sequence[Sequence[float]], tuned_weight: float) -> Floats:
    return fuse(np.asarray(tuned), np.asarray(readout), tuned_weight, 1 - tuned_weight)


class EnsembleScorer:
    """Both members rate each record; reasons are the tuned model's."""

    name = NAME

    def __init__(self, tuned: Scorer, readout: Scorer, tuned_weight: float) -> None:
        self._tuned, self._readout, self._weight = tuned, readout, tuned_weight
        self.slots, self.explains = max(tuned.slots, readout.slots), tuned.explains

    def render(self, record: str) -> str:
        return self._tuned.render(record)

    def score(self, record: str) -> Prediction:
        tuned, readout = self._tuned.score(record), self._readout.score(record)
        shares_NK = _fused([tuned.probabilities], [readout.probabilities], self._weight)
        return Prediction(tuple(map(float, shares_NK[0])), exact=tuned.exact)

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        return self._tuned.explain(record, label, max_tokens=max_tokens)

    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._tuned.notes(), *self._readout.notes())))

    def describe(self) -> Mapping[str, object]:
        return {"engine": NAME, "tuned": self._tuned.describe(), "readout": self._readout.describe()}
