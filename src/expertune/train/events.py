"""Events that the training loop reports. No torch here, so that progress and tests need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class StepEvent:
    """One optimiser step. `loss` is in nats per weighted target token; `tokens` excludes padding."""

    kind: Literal["step"] = field(default="step", kw_only=True)
    step: int
    steps: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class DevEvent:
    """One evaluation on the dev rows (train.evaluate.DevEvaluation). `best`: this state is the best so far."""

    kind: Literal["dev"] = field(default="dev", kw_only=True)
    step: int
    steps: int
    loss: float
    label_loss: float
    rationale_loss: float | None
    macro_f1: float
    accuracy: float
    best: bool
    seconds: float


Event = StepEvent | DevEvent


def steps_of(history: Sequence[Event]) -> list[StepEvent]:
    return [event for event in history if isinstance(event, StepEvent)]


def evaluations_of(history: Sequence[Event]) -> list[DevEvent]:
    return [event for event in history if isinstance(event, DevEvent)]
