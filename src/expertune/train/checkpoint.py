"""Save and load the training state: written atomically, and loaded only by the run that wrote it."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files import atomic
from .events import DevEvent, Event, StepEvent

NAME = "training.pt"


@dataclass(frozen=True)
class CheckpointPlace:
    """Folder and run of the saved training state; with `resume` training continues from it."""

    folder: Path
    run_id: str
    resume: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step and the result depend on. Tensors are float32 on the CPU; P parameter of the
    adapter, R dev row, K label. `settled_steps`: all steps, if a limit on the time has settled them."""

    step: int
    values_P: torch.Tensor
    first_moment_P: torch.Tensor
    second_moment_P: torch.Tensor
    best_P: torch.Tensor
    best_score: tuple[float, float]
    best_step: int
    evaluations_without_gain: int
    history: tuple[Event, ...]
    done: bool
    base_log_RK: torch.Tensor
    best_log_RK: torch.Tensor
    settled_steps: int | None = None
    best_code_log_RK: torch.Tensor | None = None


def save(folder: Path, checkpoint: Checkpoint, run: str) -> None:
    """Write the state atomically. Raises OutputError."""
    buffer = io.BytesIO()
    torch.save({"run": run, **vars(checkpoint), "history": [asdict(event) for event in checkpoint.history]}, buffer)
    with atomic(folder / NAME) as file:
        file.write(buffer.getbuffer())


def load(folder: Path, run: str) -> Checkpoint | None:
    """Load the checkpoint of this run; None if there is none.

    Raises UsageError if it is damaged or belongs to other settings, another base or other rows. (Falling back to a
    model set would end the run and delete a checkpoint with which the right command could continue.)
    """
    path = folder / NAME
    if not path.exists():
        return None
    owner, checkpoint = _read(path)
    if owner != run:
        raise _of_another_run(path)
    return checkpoint


def check_owner(folder: Path, run: str) -> None:
    """Raise UsageError, as `load` does, if a checkpoint below `folder` does not belong to `run`."""
    for path in sorted(folder.rglob(NAME)):
        if _read(path)[0] != run:
            raise _of_another_run(path)


def _read(path: Path) -> tuple[str, Checkpoint]:
    """Run identity and content."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        owner = str(state.pop("run"))
        history = tuple(_event(**event) for event in state.pop("history"))
        return owner, Checkpoint(**{**state, "history": history, "best_score": tuple(state.pop("best_score"))})
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(f"{path}: damaged ({type(error).__name__}); remove it and start without --resume") from error


def _event(kind: str, **facts: Any) -> Event:
    return StepEvent(**facts) if kind == "step" else DevEvent(**facts)


def _of_another_run(path: Path) -> UsageError:
    return UsageError(
        f"{path}: belongs to other settings, another base or other rows; repeat those, or start without --resume"
    )
