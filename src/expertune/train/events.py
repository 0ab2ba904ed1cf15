"""Events that the training loop reports. No torch here, so that progress and tests need none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepEvent:
    """One optimiser step. `loss` is in nats per weighted target token; `tokens` excludes padding."""

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
