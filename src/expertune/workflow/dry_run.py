"""Plan of a run without the run: the settings that it would use and its times; nothing is written."""

from __future__ import annotations

from ..ratings.dataset import Dataset
from .encode import time_run
from .find_base import find_models
from .plan import plan_training
from .plan_time import plan_lines
from .state import NotTuned, RunRequest, TrainingPlan
from .tune import require_tuned_or_fallback
from .workspace import Workspace


def dry_run(request: RunRequest, dataset: Dataset, ws: Workspace) -> list[str]:
    """Lines for the user. Raises what the run itself would raise before its long work."""
    plan = time_run(plan_training(dataset, find_models(request, ws), request, ws), ws)
    parts = "{train} training, {dev} validation and {test} test records".format(**dataset.counts.parts())
    if isinstance(plan, NotTuned):
        require_tuned_or_fallback(plan, request, ws)
        seconds = request.config.model_set_budget_seconds
        why = f"No tuned model: {plan.reason}" if plan.reason else "No tuned model: --approach model-set"
        return [parts, why, f"A model set would be made in about {seconds:g} s; its evaluation comes on top"]
    return [parts, _settings_line(plan), *(plan_lines(plan.job) if plan.job else ["Its time could not be measured"])]


def _settings_line(plan: TrainingPlan) -> str:
    own = plan.config
    return (
        f"LoRA of rank {own.rank} on {plan.base.name}: {own.layers} blocks, {own.epochs:g} epochs, batches of "
        f"{own.batch_size}, learning rate {own.learning_rate:g}, {own.compute_dtype} on {own.device}, "
        f"{own.threads} threads"
    )
