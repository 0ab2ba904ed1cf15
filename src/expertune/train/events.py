"""What the training loop reports. No torch here, so that progress and tests need none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepEvent:
    """One optimiser step. Loss is nats per weighted target token; `tokens` are real tokens, never padding."""

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
    """A look at the dev rows, as train.dev.DevLook. `best` says whether this state is the one kept so far."""

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
