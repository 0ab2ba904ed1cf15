"""Schedule of a training: its steps, their learning rates, and the steps after which it is evaluated. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config import Config
from .events import Event, evaluations_of, steps_of

MEASURED = 10  # a tenth of the steps is timed before their number is settled


@dataclass(frozen=True)
class Schedule:
    """Steps of a training, with linear warm-up of the learning rate to `peak` and cosine decay to zero at the end.

    `settled`: a limit on the time has already been applied; a resumed training must not apply it again.
    """

    steps: int
    steps_in_epoch: int
    evals_per_epoch: int
    warmup_ratio: float
    peak: float
    settled: bool = False

    @classmethod
    def of(cls, config: Config, rows: int) -> Schedule:
        """The schedule of the settings for so many training rows."""
        batches = math.ceil(rows / config.batch_size)
        in_epoch = math.ceil(batches / config.gradient_accumulation_steps)
        return cls(
            steps=max(1, math.ceil(float(config.epochs) * in_epoch)),
            steps_in_epoch=in_epoch,
            evals_per_epoch=config.evals_per_epoch,
            warmup_ratio=config.warmup_ratio,
            peak=float(config.learning_rate),
        )

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = math.ceil(self.warmup_ratio * self.steps)
        if step < warm:
            return self.peak * (step + 1) / warm
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def evaluation_steps(self) -> set[int]:
        """Numbers of finished steps after which the model is evaluated."""
        every = max(1, self.steps_in_epoch // self.evals_per_epoch)
        return {*range(every, self.steps, every), self.steps}

    def within(self, left: float, history: Sequence[Event]) -> Schedule:
        """After a tenth of the steps: as many as fit into the seconds that are `left`, at the speed of the `history`.

        Never more steps than before, and at least one more; afterwards the schedule stays as it is.
        """
        steps = [event.seconds for event in steps_of(history)]
        if self.settled or len(steps) < math.ceil(self.steps / MEASURED):
            return self
        evaluations = [event.seconds for event in evaluations_of(history)]
        step = sum(steps) / len(steps)
        evaluation = sum(evaluations) / len(evaluations) if evaluations else 0.0

        def seconds(candidate: Schedule) -> float:
            ahead = sum(each > len(steps) for each in candidate.evaluation_steps())
            return (candidate.steps - len(steps)) * step + ahead * evaluation

        candidates = (replace(self, steps=count, settled=True) for count in range(self.steps, len(steps), -1))
        shortest = replace(self, steps=min(self.steps, len(steps) + 1), settled=True)
        return next((each for each in candidates if seconds(each) <= left), shortest)
