"""Advice after a training that gained nothing: which setting to change, read from its losses."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..errors import TrainingFailedError
from .events import Event, StepEvent, evaluations_of, steps_of

SHARE = 4  # a quarter of the steps is averaged: batches differ, so that a few of them say little
TRAINING_RISE = 1.4
VALIDATION_RISE = 1.02  # the same rows each time, so that only rounding is allowed for
HIGH_RATE = 1e-2  # peak rate of LoRA: the smallest models learn best at a third of it (train/recipe.py)


def advice(history: Sequence[Event]) -> str:
    """The settings to change after a training with this `history`.

    Never a higher learning rate where a loss rose or the rate was high already, but a tenth of it.
    """
    if why := _too_high(history):
        return f"{why}: lower --learning-rate to {_peak_rate(history) / 10:.2g}"
    return "check the ratings, or raise --epochs or --learning-rate"


def failed(why: str, history: Sequence[Event]) -> TrainingFailedError:
    """The error of a training that failed, with advice."""
    return TrainingFailedError(f"{why}; {advice(history)}")


def rate_too_high(history: Sequence[Event]) -> bool:
    """True where the advice is to lower the learning rate."""
    return bool(_too_high(history))


def _too_high(history: Sequence[Event]) -> str:
    """Why the learning rate was too high; empty where nothing says so."""
    if rise := _rise(history):
        return f"the {rise}"
    rate = _peak_rate(history)
    return f"the learning rate of {rate:.2g} is too high for a model of any size" if rate >= HIGH_RATE else ""


def _peak_rate(history: Sequence[Event]) -> float:
    return max((event.learning_rate for event in steps_of(history)), default=0.0)


def _rise(history: Sequence[Event]) -> str:
    """The loss that rose, and how far; empty if none did. The first validation is the base's."""
    validation = [event.loss for event in evaluations_of(history)]
    if steps := steps_of(history):
        start, peak = _start_and_peak(steps)
        start = max(start, validation[0]) if validation else start
        if _rose(start, peak, TRAINING_RISE):
            return f"training loss rose from {start:.2f} to {peak:.2f}"
    if len(validation) > 1 and _rose(validation[0], validation[-1], VALIDATION_RISE):
        return f"loss on the validation records rose from {validation[0]:.2f} to {validation[-1]:.2f}"
    return ""


def _start_and_peak(steps: Sequence[StepEvent]) -> tuple[float, float]:
    """Mean training loss while the rate warmed up, and of the worst quarter of the steps in a row.

    Not that of the last quarter: a rate that falls to zero lets a model that has diverged settle on one answer, with a
    loss below the base's.
    """
    losses, rates = [event.loss for event in steps], [event.learning_rate for event in steps]
    width = min(max(3, len(losses) // SHARE), len(losses))
    warm = min(max(1, rates.index(max(rates))), width)
    peak = max(fmean(losses[at : at + width]) for at in range(len(losses) - width + 1))
    return fmean(losses[:warm]), peak


def _rose(first: float, last: float, factor: float) -> bool:
    """True also where the last loss is NaN."""
    return not last <= factor * first
