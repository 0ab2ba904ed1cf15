"""Measure this machine with the engines and the records of a run, for the plan of its time."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config, with_changes
from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..train.encode import Tokenized
from .job import LEAST_BUDGET, JobPlan, Speeds, Work
from .plan import blocks_of, shape_of, training_speed
from .rating_speed import measure_conversion, measure_rating


@dataclass(frozen=True)
class Served:
    """The base in llama.cpp and in the engine that rates in this run, and the seconds to open the first."""

    engine: LlamaCppEngine
    rater: Engine
    open_seconds: float


def measured(tokens: Tokenized, served: Served) -> tuple[Work, Speeds]:
    """The records that a run reads, as far as its training goes, and the speeds with the requested settings."""
    plan, dataset, rows, code = tokens.plan, tokens.dataset, tokens.rows, tokens.candidates.code
    base, train = plan.base.path, dataset.examples.train
    shape = shape_of(rows.train, len(code.lead) if code else 0)
    rater, branch = served.rater, tokens.branch
    speeds = Speeds(
        training_speed(base, shape, plan.requested, fresh=True),  # other work changes from hour to hour
        measure_rating(served.engine, train, dataset.scale, served.open_seconds, rater=rater, branch=branch),
        measure_conversion(base, plan.config.target_modules),
    )
    parts = dataset.examples.map(len).parts()
    unlabelled = sum(row.length for row in rows.unlabelled)
    return Work(shape, **parts, **blocks_of(base, plan.requested), unlabelled_tokens=unlabelled), speeds


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
