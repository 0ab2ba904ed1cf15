"""Plan the time of a whole run before its long work; with --minutes choose the settings that fit into it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from ..config import Config, with_changes
from ..engine.base import Engine
from ..errors import ExpertuneError, UsageError
from ..estimate.job import LEAST_BUDGET, JobPlan, Speeds, Work, plan_job
from ..estimate.plan import blocks_of, shape_of, training_speed
from ..estimate.rating_speed import measure_conversion, measure_rating
from ..modelset.prompt_search import records_to_rate
from ..progress import duration_text
from ..ratings.codes import CodeBranch
from ..ratings.dataset import Dataset
from ..ratings.schema import Example
from ..readout.states import depths_of
from .state import TokenRows, TrainingPlan, run_identity
from .workspace import Workspace

log = logging.getLogger("expertune")

CHOSEN = {"layers": "layers", "epochs": "epochs", "model_set_budget_seconds": "model_set_seconds"}


@dataclass(frozen=True)
class Served:
    """The base in llama.cpp and in the engine that rates in this run, the seconds to open the first, and the code
    branch that the tuned file will have.
    """

    engine: Engine
    rater: Engine
    open_seconds: float
    branch: CodeBranch | None = None

    def lead_tokens(self, example: Example) -> int:
        """Tokens that the code branch adds to each record."""
        if self.branch is None:
            return 0
        return len(self.engine.continuation(self.engine.render(example.messages), self.branch.lead))


def plan_time(plan: TrainingPlan, dataset: Dataset, rows: TokenRows, served: Served, ws: Workspace) -> TrainingPlan:
    """Measure this machine, print the plan of the run and add it; with `minutes`, also the settings that it chose.

    A resumed run keeps the settings of its first part. Without a limit, a quiet run has no plan, nor one whose speed
    cannot be measured. Raises UsageError if the time given is too short for any run.
    """
    if ws.progress.quiet and plan.config.minutes is None and not ws.dry_run:
        return plan
    try:
        with ws.progress.stage("Measuring this machine's speed"):
            work, speeds = _measured(plan, dataset, rows, served)
    except (ExpertuneError, RuntimeError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        if plan.config.minutes is not None:
            raise UsageError(f"--minutes: the speed of this machine could not be measured ({line})") from error
        log.warning("no plan of the time: %s", line)
        return plan
    ws.parts["read"] = read_seconds = round(ws.elapsed, 3)
    job = _planned(replace(work, read_seconds=read_seconds), speeds, plan, resume=ws.resume)
    unlabelled = [f"  {dataset.unlabelled.line()}"] if dataset.unlabelled else []
    for line in () if ws.dry_run else [*plan_lines(job), *unlabelled]:
        ws.progress.say(line)
        log.info("%s", line)
    ws.progress.whole.plan(job.shown_seconds)
    return _with_settings(plan, job, resume=ws.resume)


def _planned(work: Work, speeds: Speeds, plan: TrainingPlan, *, resume: bool) -> JobPlan:
    config = plan.config
    given = frozenset(plan.requested.model_fields_set)
    if not resume:
        return plan_job(work, speeds, config, given)
    return replace(plan_job(work, speeds, with_changes(config, minutes=None), given), minutes=config.minutes)


def _measured(plan: TrainingPlan, dataset: Dataset, rows: TokenRows, served: Served) -> tuple[Work, Speeds]:
    config, path, train = plan.config, plan.base.path, dataset.examples.train
    shape = shape_of(rows.train, served.lead_tokens(train[0]))
    speeds = Speeds(
        training_speed(path, shape, plan.requested, fresh=True),  # other work changes from hour to hour
        measure_rating(
            served.engine, train, dataset.scale, served.open_seconds, rater=served.rater, branch=served.branch
        ),
        measure_conversion(path, config.target_modules),
    )
    counts, blocks = dataset.counts, blocks_of(path, plan.requested)
    search = records_to_rate(len(dataset.scale.labels), counts.dev, redact=config.redact)
    depth = max(depths_of(blocks["blocks"])) if config.readout else 0
    unlabelled = sum(row.length for row in rows.unlabelled)
    found = Work(
        shape, **counts.parts(), **blocks, search_records=search, readout_blocks=depth, unlabelled_tokens=unlabelled
    )
    return found, speeds


def _with_settings(plan: TrainingPlan, job: JobPlan, *, resume: bool) -> TrainingPlan:
    """Add the plan; settings that it changed are part of the run's identity."""
    changes = {name: getattr(job.settings, own) for name, own in CHOSEN.items()}
    config = plan.config
    if config.minutes is None or resume or all(getattr(config, name) == value for name, value in changes.items()):
        return replace(plan, job=job)
    config = with_changes(config, **changes)
    return replace(plan, config=config, run_id=run_identity(plan.base, plan.dataset, config), job=job)


def plan_lines(job: JobPlan) -> list[str]:
    """The plan as a short table; settings that a limit has chosen come last."""
    limit = "" if job.minutes is None else f" (limit: {job.minutes:g} minutes)"
    lines = [f"Plan: about {duration_text(job.seconds)}{limit}"]
    width = max(len(stage.title) for stage in job.stages)
    lines += [f"  {stage.title:{width}}  {duration_text(stage.seconds):>12}" for stage in job.stages]
    if job.minutes is not None:
        own = job.settings
        lines.append(
            f"  with {own.layers} adapted layers, {own.epochs:g} epochs, {own.model_set_seconds:g} s at most for the "
            f"model set, {own.answers} free-text answers"
        )
    return lines


def with_actual(job: JobPlan | None, ws: Workspace) -> JobPlan | None:
    """The plan with the seconds that its stages took."""
    if job is None:
        return None
    writing = max(0.0, ws.seconds.get("export", 0.0) - ws.parts.get("check", 0.0))
    parts = {**ws.seconds, **ws.parts, "write": writing}
    return job.finished({name: round(seconds, 3) for name, seconds in parts.items() if seconds})


def within_time(config: Config, job: JobPlan | None, elapsed: float) -> Config:
    """Limit the search for a model set to the time that is left of the run, less that of its evaluation.

    Without a plan (`job`) its evaluation takes about as long as the search.
    """
    if config.minutes is None:
        return config
    left = 60 * config.minutes - elapsed
    later = sum(stage.seconds for stage in job.stages if stage.name in ("judge", "report")) if job else left / 2
    room = max(LEAST_BUDGET, left - later)
    return with_changes(config, model_set_budget_seconds=min(config.model_set_budget_seconds, room))
