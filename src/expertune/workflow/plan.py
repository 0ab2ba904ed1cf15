"""Find the models; resolve the settings of the training; plan the time of the run, with --minutes settings that fit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from .. import outputs
from ..config import with_changes
from ..engine.base_model import Base, find_base
from ..engine.ollama.server import running_server
from ..errors import ExpertuneError, FineTuningNotSupportedError, UsageError
from ..estimate.job import JobPlan, plan_job
from ..estimate.run_time import Served, measured
from ..modelset.members import base_member, further_members
from ..modelset.prompt_search import records_to_rate
from ..progress.whole_job import plan_lines
from ..rate.artifact import ANSWER_ROOM
from ..ratings.audit import FEW_ROWS
from ..ratings.dataset import Dataset
from ..readout.states import depths_of
from ..torch_engine import NAME as TORCH
from ..torch_engine import check_readable
from ..train.encode import Tokenized
from ..train.recipe import TrainingPlan, training_plan
from ..workspace import Workspace
from .state import Models, NotTuned, RunRequest, as_value

log = logging.getLogger("expertune")

CHOSEN = {"layers": "layers", "epochs": "epochs", "model_set_budget_seconds": "model_set_seconds"}


def find_models(request: RunRequest, ws: Workspace) -> Models:
    """Locate the base, in the running Ollama or on disk, and the further models of `config.models`.

    Raises UsageError for a path that does not exist, ModelFileError for a damaged file, and EngineError for one that
    `config.engine` does not read. A model without a local file gives NotTuned: a model set can be made for it.
    """
    name, config = request.model, request.config
    needs_server = bool(config.models) or not Path(name).expanduser().exists()
    server = running_server(allow_remote=request.allow_remote) if needs_server else None
    if server is not None:
        ws.stack.callback(server.close)
    further = further_members(config.models, name, server, config)
    base = as_value(lambda: find_base(name, server, context=config.max_tokens + ANSWER_ROOM))
    if isinstance(base, Base) and config.engine == TORCH:
        check_readable(base.path)
    first = base_member(name, base if isinstance(base, Base) else None, server, config)
    return Models(base, (first, *further))


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
    base, first = models.base, outputs.first_run(ws.folder)[0] if ws.resume else None
    plan = as_value(lambda: training_plan(dataset, base, request.config, first))
    if ws.resume and isinstance(plan, TrainingPlan):
        from ..train.checkpoint import check_owner  # imports torch

        check_owner(ws.checkpoints, plan.run_id)
    return plan


def plan_time(tokens: Tokenized, served: Served, ws: Workspace) -> tuple[TrainingPlan, JobPlan | None]:
    """Measure this machine and print the plan of the run; with `minutes` the training's settings change to those of it.

    A resumed run keeps the settings of its first part. Without a limit, a quiet run has no plan, nor one whose speed
    cannot be measured. Raises UsageError if the time given is too short for any run.
    """
    plan, config = tokens.plan, tokens.plan.config
    if ws.progress.quiet and config.minutes is None and not ws.dry_run:
        return plan, None
    try:
        with ws.progress.stage("Measuring this machine's speed"):
            work, speeds = measured(tokens, served)
    except (ExpertuneError, RuntimeError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        if config.minutes is not None:
            raise UsageError(f"--minutes: the speed of this machine could not be measured ({line})") from error
        log.warning("no plan of the time: %s", line)
        return plan, None
    ws.parts["read"] = read_seconds = round(ws.elapsed, 3)
    search = records_to_rate(len(tokens.dataset.scale.labels), work.dev, redact=config.redact)
    depth = max(depths_of(work.blocks)) if config.readout else 0
    whole = replace(work, read_seconds=read_seconds, search_records=search, readout_blocks=depth)
    kept = with_changes(config, minutes=None) if ws.resume else config
    planned = plan_job(whole, speeds, kept, frozenset(plan.requested.model_fields_set))
    job, unlabelled = replace(planned, minutes=config.minutes), tokens.dataset.unlabelled
    for line in () if ws.dry_run else [*plan_lines(job), *([f"  {unlabelled.line()}"] if unlabelled else [])]:
        ws.progress.say(line)
        log.info("%s", line)
    ws.progress.whole.plan(job.shown_seconds)
    if kept.minutes is None:
        return plan, job
    chosen = {name: getattr(job.settings, own) for name, own in CHOSEN.items()}
    return replace(plan, config=with_changes(config, **chosen)), job
