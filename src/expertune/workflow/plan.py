"""Resolve the automatic settings of the training; a resumed run takes them from the first run."""

from __future__ import annotations

from .. import outputs
from ..config import AUTO, Config, as_dict, make_config
from ..engine.base_model import Base
from ..errors import FineTuningNotSupportedError
from ..gguf.read import GGUFFile
from ..ratings.audit import FEW_ROWS
from ..ratings.dataset import Dataset
from ..renamed_settings import current_settings
from .state import Models, NotTuned, RunRequest, TrainingPlan, as_value, run_identity
from .workspace import Workspace

# values that mean: chosen by the run
AUTOMATIC = {**dict.fromkeys(("device", "compute_dtype", "learning_rate", "epochs", "layers"), AUTO), "threads": None}
BUDGET = Config().model_set_budget_seconds


def plan_training(dataset: Dataset, models: Models, request: RunRequest, ws: Workspace) -> TrainingPlan | NotTuned:
    """Resolve device, dtype, threads, learning rate, epochs and layers, and write them to the folder.

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

    config = _resolved(base, request, ws)
    plan = TrainingPlan(dataset, base, config, run_identity(base, dataset, config), request.config)
    if ws.resume:
        check_owner(ws.checkpoints, plan.run_id)
    write_settings(plan, ws)
    return plan


def write_settings(plan: TrainingPlan, ws: Workspace) -> None:
    """Write training_config.yaml. Raises OutputError."""
    run = {"input": plan.dataset.source, "model": plan.base.name, "topics": plan.dataset.topics}
    outputs.write_config(ws.folder / outputs.TRAINING_CONFIG, plan.config, run)


def _resolved(base: Base, request: RunRequest, ws: Workspace) -> Config:
    """Settings of the resumed run if they agree with the given ones, else the given ones with automatic values set."""
    from ..model.arch import read_config
    from ..model.load import resolve
    from ..train.recipe import with_recipe

    with GGUFFile(base.path) as file:
        read_config(file)  # refuses architectures that cannot be tuned
        return _first_settings(request.config, ws) or with_recipe(file, resolve(file, request.config))


def _first_settings(config: Config, ws: Workspace) -> Config | None:
    path = ws.folder / outputs.TRAINING_CONFIG
    if not ws.resume or not path.exists():
        return None
    first = make_config(current_settings(outputs.read_config(path)["settings"], warn=False))
    # a limit on the time also chooses the model set's
    automatic = AUTOMATIC if first.minutes is None else AUTOMATIC | {"model_set_budget_seconds": BUDGET}
    given = {name: value for name, value in as_dict(config).items() if automatic.get(name) != value}
    return first if given.items() <= as_dict(first).items() else None
