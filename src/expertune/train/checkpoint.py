"""Training state on disk: written whole or not at all, and only taken back by the run that wrote it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import TrainingFailedError
from ..files import atomic

NAME = "training.pt"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step depends on. Tensors are flat float32 on the CPU, P = numbers of the adapter."""

    step: int
    values_P: torch.Tensor
    first_moment_P: torch.Tensor
    second_moment_P: torch.Tensor
    best_P: torch.Tensor
    best_score: tuple[float, float]
    best_step: int
    looks_without_gain: int
    history: tuple[Mapping[str, Any], ...]
    done: bool


def save(folder: Path, checkpoint: Checkpoint, run: str) -> None:
    buffer = io.BytesIO()
    torch.save({"run": run, **vars(checkpoint), "history": [dict(event) for event in checkpoint.history]}, buffer)
    with atomic(folder / NAME) as file:
        file.write(buffer.getbuffer())


def load(folder: Path, run: str) -> Checkpoint | None:
    """The checkpoint of this very run, or None where there is none.

    Raises TrainingFailedError where it belongs to other settings, another base or other rows, or is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        owner = state.pop("run")
        state["history"], state["best_score"] = tuple(state["history"]), tuple(state["best_score"])
        checkpoint = Checkpoint(**state)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise TrainingFailedError(
            f"{path}: damaged ({type(error).__name__}); remove it and start without --resume"
        ) from error
    if owner != run:
        raise TrainingFailedError(
            f"{path}: belongs to other settings, another base or other rows; repeat those, or start without --resume"
        )
    return checkpoint
