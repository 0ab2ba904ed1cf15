"""Measure this machine with the engines and the records of a run, for the plan of its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, with_changes
from ..engine.base import Engine
from ..ratings.codes import CodeBranch
from ..ratings.dataset import Dataset
from ..ratings.schema import Example
from ..train.encode import Row
from .job import LEAST_BUDGET, JobPlan, Speeds, Work
from .plan import blocks_of, shape_of, training_speed
from .rating_speed import measure_conversion, measure_rating


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


def measured(
    served: Served, base: Path, dataset: Dataset, rows: Mapping[str, Sequence[Row]], config: Config, requested: Config
) -> tuple[Work, Speeds]:
    """The records that a run reads, as far as its training goes, and the speeds with the `requested` settings."""
    train, by, branch = dataset.examples["train"], served.engine, served.branch
    shape = shape_of(rows["train"], served.lead_tokens(train[0]))
    speeds = Speeds(
        training_speed(base, shape, requested, fresh=True),  # other work changes from hour to hour
        measure_rating(by, train, dataset.scale, served.open_seconds, rater=served.rater, branch=branch),
        measure_conversion(base, config.target_modules),
    )
    parts = {part: len(examples) for part, examples in dataset.examples.items()}
    unlabelled = sum(row.length for row in rows["unlabelled"])
    return Work(shape, **parts, **blocks_of(base, requested), unlabelled_tokens=unlabelled), speeds


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
