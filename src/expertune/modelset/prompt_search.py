"""Search the best way to prompt one model of a model set, on the validation rows, while its time lasts."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Config
from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..errors import EngineError
from ..predict.decision import asked, decision_pass
from ..predict.score import Pass, rate_examples
from ..progress import Progress
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from . import search
from .build import DECISION, BuildInputs, Recipe, build, recipes
from .config import ModelSetConfig, write
from .members import CandidateModel
from .records import TrialRecord
from .select_raters import agreement

TOKEN_ROWS = 8  # whose prompts are counted for the mean

Shares = tuple[float, ...]
Clock = Callable[[], float]


@dataclass(frozen=True)
class PromptSearchResult:
    """A model after its search: the set as if it were alone in it, and its predictions of the validation rows."""

    member: CandidateModel
    config: ModelSetConfig
    rated: Mapping[int, Shares]
    trials: tuple[TrialRecord, ...]
    complete: bool
    seconds_per_record: float | None = None
    prompt_tokens: int | None = None
    fault: str | None = None


@dataclass(frozen=True)
class BuildContext:
    """Inputs shared by all steps of the search. `deadline` is in the seconds of `clock`."""

    path: Path
    inputs: BuildInputs
    prepared: Dataset
    config: Config
    progress: Progress
    clock: Clock
    deadline: float

    def build(self, member: CandidateModel, recipe: Recipe, engine: Engine | None = None) -> ModelSetConfig:
        """The set of one member; without its engine, tokens are estimated."""
        inputs = replace(self.inputs, model_name=member.name, digest=member.digest, decides=member.decides)
        if engine is not None:
            inputs = replace(inputs, context=engine.context, count_tokens=engine.count_tokens)
        return build(inputs, recipe)


@dataclass(frozen=True)
class PromptCandidate:
    """A recipe and the set that it gives for one model."""

    recipe: Recipe
    config: ModelSetConfig


def search_prompt(context: BuildContext, member: CandidateModel, first: Recipe, *, leads: bool) -> PromptSearchResult:
    """Search the best prompt of one model; with `leads` each better one is written to the file at once."""
    nothing = PromptSearchResult(member, context.build(member, first), {}, (), False)
    if member.open is None:
        return replace(nothing, fault="the model's file is not on this machine")
    try:
        with contextlib.closing(member.open()) as engine:
            return _search(context, member, engine, leads=leads)
    except EngineError as error:
        return replace(nothing, fault=str(error))


def _search(context: BuildContext, member: CandidateModel, engine: Engine, *, leads: bool) -> PromptSearchResult:
    dev, scale = context.prepared.examples.dev, context.prepared.scale
    true = [scale.values.index(example.value) for example in dev]
    tried, order = _candidates(context, member, engine), _fair_order(true, context.config.seed)
    shown, tokens = Path(member.name).name, 0
    title = asked(shown) if member.decides else f"Model set: choosing the prompt for {shown}"
    with context.progress.stage(title, unit="records") as stage:

        def rate(candidate: PromptCandidate, rows: Sequence[int]) -> list[Shares]:
            nonlocal tokens
            if member.decides:
                made = rate_decisions(engine, candidate.config, [dev[row] for row in rows], scale)
                found, tokens = made.rated, tokens + made.prompt_tokens
            else:
                found = rate_examples(
                    engine, [prompted(candidate.config, dev[row], member.name) for row in rows], scale
                )
            stage.advance(len(rows))
            return [each.probabilities for each in found]

        found = search.halve(
            tried,
            order,
            rate,
            lambda rows, shares: _quality([true[row] for row in rows], shares),
            search.Budget(context.clock, context.deadline, max(1, engine.slots)),
            (lambda trial: write(context.path, trial.candidate.config)) if leads else (lambda trial: None),
        )
    trials = tuple(_trial(member, each, true, chosen=each is found.best) for each in found.trials)
    if found.best is None:
        return PromptSearchResult(member, tried[0].config, {}, trials, found.complete)
    config, rated = found.best.candidate.config, dict(sorted(found.best.rated.items()))
    if member.decides:
        mean = round(tokens / len(rated))
    else:
        prompts = [engine.render(prompted(config, dev[row], member.name).messages) for row in order[:TOKEN_ROWS]]
        mean = round(sum(map(engine.count_tokens, prompts)) / len(prompts))
    return PromptSearchResult(member, config, rated, trials, found.complete, found.best.seconds / len(rated), mean)


def rate_decisions(
    engine: Engine,
    config: ModelSetConfig,
    examples: Sequence[Example],
    scale: RatingScale,
    on_row: Callable[[int, int], None] | None = None,
) -> Pass:
    """A decision model of the set over some records. Raises EngineError."""
    assert isinstance(engine, LlamaCppEngine)  # further_members and base_member open no other for its file
    return decision_pass(engine, config.question(), examples, scale, on_row=on_row)


def records_to_rate(labels: int, dev_rows: int, *, redact: bool = False) -> int:
    """Number of records that the search for one model rates if it has the time."""
    return search.records_to_rate(len(recipes(labels, redact=redact)), dev_rows)


def _quality(true: Sequence[int], shares: Sequence[Shares]) -> tuple[float, ...]:
    found = agreement(true, np.asarray(shares))
    # less than a hundredth is less than a row: then the log-loss decides, which depends on every row's figure
    return round(found.macro_f1 or 0.0, 2), -found.log_loss


def _candidates(context: BuildContext, member: CandidateModel, engine: Engine) -> list[PromptCandidate]:
    """Those recipes that differ once they are cut to the model's context; a decision model has only its own."""
    made: dict[tuple[str, tuple[str, ...]], PromptCandidate] = {}
    own = recipes(len(context.prepared.scale.labels), redact=context.config.redact)
    for recipe in (DECISION,) if member.decides else own:
        config = context.build(member, recipe, engine)
        made.setdefault((config.system_prompt, config.example_ids), PromptCandidate(recipe, config))
    return list(made.values())


def _fair_order(true: Sequence[int], seed: int) -> list[int]:
    """The rows in an order in which each first part has the labels in about their shares."""
    draw = random.Random(seed)
    by_label: dict[int, list[int]] = {}
    for row, label in enumerate(true):
        by_label.setdefault(label, []).append(row)
    placed: list[tuple[float, int]] = []
    for rows in by_label.values():
        draw.shuffle(rows)
        placed += [((at + 0.5) / len(rows), row) for at, row in enumerate(rows)]
    return [row for _, row in sorted(placed)]


def _trial(
    member: CandidateModel, trial: search.PromptTrial[PromptCandidate], true: Sequence[int], *, chosen: bool
) -> TrialRecord:
    recipe, config = trial.candidate.recipe, trial.candidate.config
    rated = np.asarray(list(trial.rated.values()))
    found = agreement([true[row] for row in trial.rated], rated) if trial.rated else None
    return TrialRecord(
        model=member.name,
        candidate=recipe.name,
        examples=len(config.few_shot_examples),
        summary=config.context_summary is not None and config.context_summary.shown,
        rows=len(trial.rated),
        macro_f1=found and found.macro_f1,
        log_loss=found and found.log_loss,
        seconds=round(trial.seconds, 3),
        chosen=chosen,
        fault=trial.fault,
    )


def prompted(config: ModelSetConfig, example: Example, model: str) -> Example:
    """The example with the messages by which a model of the set is asked for it."""
    return replace(example, messages=tuple(config.messages(example.record, model)))
