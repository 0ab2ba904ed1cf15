"""Resolve the automatic settings of the training, and plan the time of the run; with --minutes settings that fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .. import outputs
from ..config import Config, with_changes
from ..engine.base_model import Base
from ..errors import ExpertuneError, FineTuningNotSupportedError, UsageError
from ..estimate.job import plan_job
from ..estimate.run_time import Served, measured
from ..files import write_text
from ..gguf.read import GGUFFile
from ..modelset.prompt_search import records_to_rate
from ..progress.whole_job import plan_lines
from ..ratings.audit import FEW_ROWS
from ..ratings.dataset import Dataset
from ..ratings.examples import training_lines
from ..readout.states import depths_of
from ..train.encode import Row
from ..workspace import Workspace
from .state import Models, NotTuned, RunRequest, TrainingPlan, as_value

log = logging.getLogger("expertune")

CHOSEN = {"layers": "layers", "epochs": "epochs", "model_set_budget_seconds": "model_set_seconds"}


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
    return as_value(lambda: _plan(dataset, base, request.config, ws))


def _plan(dataset: Dataset, base: Base, requested: Config, ws: Workspace) -> TrainingPlan:
    """With the settings of the resumed run if there are some, else those `requested`, with numbers for "auto"."""
    from ..model.arch import read_config
    from ..model.load import resolve  # imports torch
    from ..train.checkpoint import check_owner
    from ..train.recipe import with_recipe

    with GGUFFile(base.path) as file:
        read_config(file)  # refuses architectures that cannot be tuned
        first = outputs.first_run(ws.folder)[0] if ws.resume else None
        config = first or with_recipe(file, resolve(file, requested), len(dataset.examples["train"]))
    plan = TrainingPlan(dataset, base, config, requested)
    if ws.resume:
        check_owner(ws.checkpoints, plan.run_id)
    return plan


def write_inputs(plan: TrainingPlan, ws: Workspace) -> None:
    """Write training_data.jsonl and training_config.yaml, after an earlier run has been moved. Raises OutputError."""
    ws.retire_earlier_run()
    lines = training_lines(plan.dataset.examples["train"])
    write_text(ws.folder / outputs.TRAINING_DATA, "".join(f"{line}\n" for line in lines))
    run = {"input": plan.dataset.source, "model": plan.base.name, "topics": plan.dataset.topics}
    outputs.write_config(ws.folder / outputs.TRAINING_CONFIG, plan.config, run)


def plan_time(
    plan: TrainingPlan, dataset: Dataset, rows: Mapping[str, Sequence[Row]], served: Served, ws: Workspace
) -> TrainingPlan:
    """Measure this machine, print the plan of the run and add it; with `minutes`, also the settings that it chose.

    A resumed run keeps the settings of its first part. Without a limit, a quiet run has no plan, nor one whose speed
    cannot be measured. Raises UsageError if the time given is too short for any run.
    """
    config = plan.config
    if ws.progress.quiet and config.minutes is None and not ws.dry_run:
        return plan
    try:
        with ws.progress.stage("Measuring this machine's speed"):
            work, speeds = measured(served, plan.base.path, dataset, rows, config, plan.requested)
    except (ExpertuneError, RuntimeError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        if config.minutes is not None:
            raise UsageError(f"--minutes: the speed of this machine could not be measured ({line})") from error
        log.warning("no plan of the time: %s", line)
        return plan
    ws.parts["read"] = read_seconds = round(ws.elapsed, 3)
    whole = replace(
        work,
        read_seconds=read_seconds,
        search_records=records_to_rate(len(dataset.scale.labels), work.dev, redact=config.redact),
        readout_blocks=max(depths_of(work.blocks)) if config.readout else 0,
    )
    kept = with_changes(config, minutes=None) if ws.resume else config
    job = replace(plan_job(whole, speeds, kept, frozenset(plan.requested.model_fields_set)), minutes=config.minutes)
    unlabelled = [f"  {dataset.unlabelled.line()}"] if dataset.unlabelled else []
    for line in () if ws.dry_run else [*plan_lines(job), *unlabelled]:
        ws.progress.say(line)
        log.info("%s", line)
    ws.progress.whole.plan(job.shown_seconds)
    if kept.minutes is None:
        return replace(plan, job=job)
    chosen = {name: getattr(job.settings, own) for name, own in CHOSEN.items()}
    return replace(plan, config=with_changes(config, **chosen), job=job)
