"""Summary of a training for the run's record. No torch on import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import Config
from .events import steps_of

if TYPE_CHECKING:
    from ..model.load import Tunable
    from .loop import TrainingResult


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of the training. `best_step` is the step whose state was kept; `precision` is the compute dtype.

    `unlabelled` counts the records without a rating that were trained on.
    """

    approach: str
    family: str
    layers_touched: int
    trained_numbers: int
    device: str
    precision: str
    base_memory: str
    threads: int
    load_seconds: float
    learning_rate: float
    epochs: float
    steps: int
    best_step: int
    class_weighting: str
    dev_macro_f1: float
    dev_loss: float | None
    base_dev_macro_f1: float
    tokens_per_second: float | None
    last_loss: float | None
    unlabelled: int = 0


def summarize_training(
    config: Config, result: TrainingResult, tunable: Tunable, load_seconds: float, unlabelled: int = 0
) -> TrainingSummary:
    """The figures of a finished training; `load_seconds` is the time that reading the weights took."""
    steps = steps_of(result.history)
    seconds = sum(event.seconds for event in steps)
    return TrainingSummary(
        approach="lora_on_gguf",
        family=tunable.model_config.family,
        layers_touched=len(tunable.lora.layers),
        trained_numbers=int(tunable.lora.values_P.numel()),
        **tunable.placement.describe(),
        load_seconds=load_seconds,
        learning_rate=float(config.learning_rate),
        epochs=float(config.epochs),
        steps=result.steps,
        best_step=result.best_step,
        class_weighting=config.class_weight,
        dev_macro_f1=result.macro_f1,
        dev_loss=result.loss,
        base_dev_macro_f1=result.base_macro_f1,
        tokens_per_second=round(sum(event.tokens for event in steps) / seconds, 1) if seconds else None,
        last_loss=steps[-1].loss if steps else None,
        unlabelled=unlabelled,
    )
