"""One model of a model set: the ways to ask it, tried on the dev rows while its time lasts."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import outputs
from ..config import Config
from ..engine.base import Engine
from ..errors import EngineError
from ..predict.score import rate_examples
from ..progress import Progress
from ..ratings.dataset import Dataset
from ..ratings.schema import Example
from . import build, search
from .members import CandidateModel
from .select_raters import agreement
from .training_signals import TrainingSignals

TOKEN_ROWS = 8  # whose prompts are counted for the mean

Shares = tuple[float, ...]
Clock = Callable[[], float]


@dataclass(frozen=True)
class PromptSearchResult:
    """A model after its search: the set as if it were alone in it, and how it rated the dev rows."""

    member: CandidateModel
    content: dict[str, Any]
    rated: Mapping[int, Shares]
    trials: tuple[dict[str, Any], ...]
    complete: bool
    seconds_per_record: float | None = None
    prompt_tokens: int | None = None
    fault: str | None = None


@dataclass(frozen=True)
class BuildContext:
    """What every step of the building needs. `deadline` is in the seconds of `clock`."""

    path: Path
    prepared: Dataset
    config: Config
    progress: Progress
    material: TrainingSignals
    clock: Clock
    deadline: float
    created_at: str = field(default_factory=outputs.now)

    def content(self, member: CandidateModel, recipe: build.Recipe, engine: Engine | None = None) -> dict[str, Any]:
        prepared = self.prepared
        served = {} if engine is None else {"context": engine.context, "count_tokens": engine.count_tokens}
        return build.build(
            member.name,
            prepared.split,
            prepared.scale,
            prepared.topics,
            created_at=self.created_at,
            seed=self.config.seed,
            recipe=recipe,
            material=self.material,
            redact=self.config.redact,
            digest=member.digest,
            **served,
        )


def ask(maker: BuildContext, member: CandidateModel, first: build.Recipe, *, leads: bool) -> PromptSearchResult:
    """Search the best way to ask one model; `leads` says that it is the one whose set lies in the file meanwhile."""
    nothing = PromptSearchResult(member, maker.content(member, first), {}, (), False)
    if member.open is None:
        return replace(nothing, fault="the model's file is not on this machine")
    try:
        with contextlib.closing(member.open()) as engine:
            return _search(maker, member, engine, leads=leads)
    except EngineError as error:
        return replace(nothing, fault=str(error))


def _search(maker: BuildContext, member: CandidateModel, engine: Engine, *, leads: bool) -> PromptSearchResult:
    prepared = maker.prepared
    dev, scale = prepared.examples["dev"], prepared.scale
    true = [scale.values.index(example.value) for example in dev]
    tried = _candidates(maker, member, engine)

    def rate(candidate: tuple[build.Recipe, dict[str, Any]], rows: Sequence[int]) -> list[Shares]:
        asked = [as_asked(candidate[1], dev[row], member.name) for row in rows]
        found = [each.probabilities for each in rate_examples(engine, asked, scale)]
        stage.advance(len(rows))
        return found

    def quality(rows: Sequence[int], shares: Sequence[Shares]) -> tuple[float, ...]:
        found = agreement([true[row] for row in rows], np.asarray(shares))
        # less than a hundredth is less than a row: then the log-loss decides, which sees every row's figure
        return (round(found["macro_f1"] or 0.0, 2), -found["log_loss"])

    def keep(trial: search.PromptTrial[tuple[build.Recipe, dict[str, Any]]]) -> None:
        if leads:
            build.write(maker.path, trial.candidate[1])

    budget = search.Budget(maker.clock, maker.deadline, max(1, engine.slots))
    order = _fair_order(true, maker.config.seed)
    with maker.progress.stage(f"Model set, ways to ask {Path(member.name).name}", unit="rows") as stage:
        found = search.halve(tried, order, rate, quality, budget, keep)
    trials = tuple(_trial(member, each, true, each is found.best) for each in found.trials)
    if found.best is None:
        return PromptSearchResult(member, tried[0][1], {}, trials, found.complete, fault=None)
    content, rated = found.best.candidate[1], dict(sorted(found.best.rated.items()))
    prompts = [engine.render(as_asked(content, dev[row], member.name).messages) for row in order[:TOKEN_ROWS]]
    tokens = round(sum(map(engine.count_tokens, prompts)) / len(prompts))
    return PromptSearchResult(member, content, rated, trials, found.complete, found.best.seconds / len(rated), tokens)


def _candidates(
    maker: BuildContext, member: CandidateModel, engine: Engine
) -> list[tuple[build.Recipe, dict[str, Any]]]:
    """Those recipes that differ once they are cut to the model's context."""
    made: dict[tuple[Any, ...], tuple[build.Recipe, dict[str, Any]]] = {}
    for recipe in build.recipes(len(maker.prepared.scale.labels), redact=maker.config.redact):
        content = maker.content(member, recipe, engine)
        made.setdefault((content["system_prompt"], tuple(content["example_ids"])), (recipe, content))
    return list(made.values())


def _fair_order(true: Sequence[int], seed: int) -> list[int]:
    """Rows in an order of which every beginning holds the labels in about their shares."""
    draw = random.Random(seed)
    by_label: dict[int, list[int]] = {}
    for row, label in enumerate(true):
        by_label.setdefault(label, []).append(row)
    placed: list[tuple[float, int]] = []
    for rows in by_label.values():
        draw.shuffle(rows)
        placed += [((at + 0.5) / len(rows), row) for at, row in enumerate(rows)]
    return [row for _, row in sorted(placed)]


def _trial(member: CandidateModel, trial: search.PromptTrial[Any], true: Sequence[int], chosen: bool) -> dict[str, Any]:
    recipe, content = trial.candidate
    found = agreement([true[row] for row in trial.rated], np.asarray(list(trial.rated.values()))) if trial.rated else {}
    return {
        "model": member.name,
        "candidate": recipe.name,
        "examples": len(content["few_shot_examples"]),
        "summary": bool(content["context_summary"] and content["context_summary"]["shown"]),
        "rows": len(trial.rated),
        "macro_f1": found.get("macro_f1"),
        "log_loss": found.get("log_loss"),
        "seconds": round(trial.seconds, 3),
        "chosen": chosen,
        "fault": trial.fault,
    }


def as_asked(content: Mapping[str, Any], example: Example, model: str) -> Example:
    """The example with the messages by which a model of the set is asked for it."""
    return replace(example, messages=tuple(build.messages(content, example.messages[-1]["content"], model)))
