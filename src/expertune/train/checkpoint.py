"""Training state on disk: written whole or not at all, and only taken back by the run that wrote it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
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

    Raises UsageError where it belongs to other settings, another base or other rows, or is damaged: a model set in its
    place would end the run and remove what the right command could go on with.
    """
    path = folder / NAME
    if not path.exists():
        return None
    owner, checkpoint = _read(path)
    if owner != run:
        raise _of_another_run(path)
    return checkpoint


def check_owner(folder: Path, run: str) -> None:
    """Before anything is written: do the checkpoints below `folder` belong to `run`? Raises UsageError as `load`."""
    for path in sorted(folder.rglob(NAME)):
        if not _read(path)[0].startswith(run):
            raise _of_another_run(path)


def _read(path: Path) -> tuple[str, Checkpoint]:
    """Owner and content."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        owner = str(state.pop("run"))
        state["history"], state["best_score"] = tuple(state["history"]), tuple(state["best_score"])
        return owner, Checkpoint(**state)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(f"{path}: damaged ({type(error).__name__}); remove it and start without --resume") from error


def _of_another_run(path: Path) -> UsageError:
    return UsageError(
        f"{path}: belongs to other settings, another base or other rows; repeat those, or start without --resume"
    )
