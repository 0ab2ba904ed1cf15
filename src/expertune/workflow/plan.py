"""Resolve the automatic settings of the training; a resumed run takes them from the first run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import AUTO, Config, as_dict, make_config
from ..engine.base_model import Base
from ..errors import FineTuningNotSupportedError, UsageError
from ..files import write_text
from ..gguf.read import GGUFFile
from ..ratings.audit import FEW_ROWS
from ..ratings.dataset import Dataset
from ..ratings.examples import training_lines
from ..renamed_settings import current_settings
from .state import Models, NotTuned, RunRequest, TrainingPlan, as_value, run_identity
from .workspace import Workspace

# values that mean: chosen by the run
AUTOMATIC = {**dict.fromkeys(("device", "compute_dtype", "learning_rate", "epochs", "layers"), AUTO), "threads": None}
BUDGET = Config().model_set_budget_seconds


def plan_training(dataset: Dataset, models: Models, request: RunRequest, ws: Workspace) -> TrainingPlan | NotTuned:
    """Resolve device, dtype, threads, learning rate, epochs and layers; writes nothing.

    NotTuned if no tuning was requested, there are too few records, or the model cannot be tuned.
    Raises UsageError if checkpoints in the folder belong to another run.
    """
    if request.fallback and len(dataset.ratings) < FEW_ROWS:
        reason = f"{len(dataset.ratings)} usable records are too few to tune on (at least {FEW_ROWS})"
        return NotTuned(FineTuningNotSupportedError(reason))
    if request.config.approach == "model-set":
        return NotTuned()
    if isinstance(models.base, NotTuned):
        return models.base
    base = models.base
    return as_value(lambda: _plan(dataset, base, request, ws))


def _plan(dataset: Dataset, base: Base, request: RunRequest, ws: Workspace) -> TrainingPlan:
    from ..train.checkpoint import check_owner

    config = _resolved(base, request, len(dataset.examples.train), ws)
    plan = TrainingPlan(dataset, base, config, run_identity(base, dataset, config), request.config)
    if ws.resume:
        check_owner(ws.checkpoints, plan.run_id)
    return plan


def write_inputs(plan: TrainingPlan, ws: Workspace) -> None:
    """Write training_data.jsonl and training_config.yaml, after an earlier run has been moved. Raises OutputError."""
    ws.retire_earlier_run()
    lines = training_lines(plan.dataset.examples.train)
    write_text(ws.folder / outputs.TRAINING_DATA, "".join(f"{line}\n" for line in lines))
    run = {"input": plan.dataset.source, "model": plan.base.name, "topics": plan.dataset.topics}
    outputs.write_config(ws.folder / outputs.TRAINING_CONFIG, plan.config, run)


def _resolved(base: Base, request: RunRequest, records: int, ws: Workspace) -> Config:
    """Settings of the resumed run if there are some, else the given ones with automatic values set for so many
    training records.
    """
    from ..model.arch import read_config
    from ..model.load import resolve
    from ..train.recipe import with_recipe

    with GGUFFile(base.path) as file:
        read_config(file)  # refuses architectures that cannot be tuned
        first = _first_run(ws.folder)[0] if ws.resume else None
        return first or with_recipe(file, resolve(file, request.config), records)


def check_resumed(folder: Path, config: Config, topics: str) -> None:
    """Raise UsageError, which names them, if settings differ from those of the run that `folder` holds."""
    first, run = _first_run(folder)
    if first is None:
        return
    # a limit on the time also chooses the model set's
    automatic = AUTOMATIC if first.minutes is None else AUTOMATIC | {"model_set_budget_seconds": BUDGET}
    given = {name: value for name, value in as_dict(config).items() if automatic.get(name) != value}
    before = {**as_dict(first), "topics": run.get("topics", topics)}
    differ = {name: value for name, value in {**given, "topics": topics}.items() if before[name] != value}
    if differ:
        named = ", ".join(f"{name} ({value!r}, there {before[name]!r})" for name, value in differ.items())
        raise UsageError(
            f"--resume: not the settings of the run in {folder}: {named}; repeat those, or start without --resume"
        )


def _first_run(folder: Path) -> tuple[Config | None, Mapping[str, Any]]:
    """Settings and inputs of the run that wrote training_config.yaml; None if there is no such file."""
    path = folder / outputs.TRAINING_CONFIG
    if not path.exists():
        return None, {}
    kept = outputs.read_config(path)
    return make_config(current_settings(kept.settings, warn=False)), kept.run
