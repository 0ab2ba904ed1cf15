"""Fit model_set_config.json within a time: search each model's prompt, then select the rater; all on validation rows.

A valid file is there from the first second on, and is written anew each time that something better is found.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import outputs
from ..config import Config
from ..engine.base import Engine
from ..errors import EngineError
from ..estimate.job import FEW_SHOT_SAMPLE
from ..evaluate.judgement import rate_shown
from ..evaluate.verdict import WORD_COUNTS
from ..predict.score import Pass, Rated, sample_of
from ..progress import Progress
from ..ratings.dataset import Dataset
from ..ratings.schema import Example
from ..record import ModelSetInfo
from .build import inputs_of, recipes
from .config import ModelSetConfig, write
from .members import CandidateModel
from .prompt_search import BuildContext, Clock, PromptSearchResult, prompted, rate_decisions, search_prompt
from .records import TFIDF, Asking, Member, Screening, TfidfMember
from .select_raters import RaterSelection, select_rater
from .word_pool import FittedWords, rate_by_words

FEW_SHOT, DECISION = "few-shot", "decision model"


@dataclass(frozen=True)
class ModelSet:
    """The configuration as written. `dev` has those validation rows that were rated, by the rule's member.

    `best` is its best language model; `unjudged` says why there is no `dev`. `out_of_fold`: probabilities of
    training rows by word counts, by id, of fits that did not see them.
    """

    config: ModelSetConfig
    best: str
    dev: tuple[Rated, ...] | None
    unjudged: str | None
    out_of_fold: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its rater in a report."""
        return WORD_COUNTS if self.config.rater == TFIDF else self.kind

    def info(self, *, judged: bool) -> ModelSetInfo:
        """The set in a run's record; `judged` is True if the test records were rated."""
        return ModelSetInfo(
            approach="meta_prompting",
            output_file=outputs.MODEL_SET,
            examples=len(self.config.few_shot_examples),
            rule=self.config.rule.model_dump(mode="json"),
            judged=judged and self.dev is not None,
        )

    @property
    def kind(self) -> str:
        """How its best language model is asked, the name of that one in a report."""
        return DECISION if any(each.decision for each in self.config.models if each.name == self.best) else FEW_SHOT


def fit_model_set(
    folder: Path,
    prepared: Dataset,
    config: Config,
    progress: Progress,
    members: Sequence[CandidateModel],
    *,
    words: FittedWords | None = None,
    clock: Clock = time.monotonic,
) -> ModelSet:
    """Fit and write the set of `members`, the base first, in about `config.model_set_budget_seconds`.

    `words` are the raters by word counts where they are fitted already. Reads no test row's text.

    Raises ModelSetConfigError and OutputError; a model that cannot be served is listed in the file under "missing".
    """
    started = clock()
    path = folder / outputs.MODEL_SET
    inputs = inputs_of(members[0].name, prepared, config, words)
    context = BuildContext(path, inputs, prepared, config, progress, clock, started + config.model_set_budget_seconds)
    first = recipes(len(prepared.scale.labels), redact=config.redact)[0]
    write(path, context.build(members[0], first))
    searched = []
    for at, member in enumerate(members):
        left = max(0.0, context.deadline - clock()) / (len(members) - at)
        searched.append(search_prompt(replace(context, deadline=clock() + left), member, first, leads=at == 0))
    selection = _select(context, searched)
    fitted = _assemble(context, searched, selection, clock() - started)
    write(path, fitted)
    if selection is None:
        fault = next((each.fault for each in searched if each.fault), "there was no time to rate a dev row")
        return ModelSet(fitted, members[0].name, None, fault)
    return ModelSet(fitted, selection.best, selection.rated, None, inputs.signals.out_of_fold)


def _select(context: BuildContext, searched: Sequence[PromptSearchResult]) -> RaterSelection | None:
    """The rater, by the validation rows that every judged member has rated; None where there is none."""
    judged = [each for each in searched if each.rated]
    if not judged:
        return None
    prepared, tfidf = context.prepared, context.inputs.signals.tfidf
    rows = sorted(set.intersection(*(set(each.rated) for each in judged)))
    truth = [prepared.split.dev[row] for row in rows]
    shares: dict[str, Sequence[Sequence[float]]] = {
        each.member.name: [each.rated[row] for row in rows] for each in judged
    }
    by_words = rate_by_words(tfidf, truth, prepared.scale) if tfidf is not None else ()
    return select_rater(shares, by_words, truth, prepared.scale, prepared.split.groups, context.config)


def _assemble(
    context: BuildContext, searched: Sequence[PromptSearchResult], selection: RaterSelection | None, seconds: float
) -> ModelSetConfig:
    """The whole configuration: the base's own, with every member's figures in it."""
    base, tfidf = searched[0].config, context.inputs.signals.tfidf
    rule = selection.rule if selection else base.rule
    calibrations = selection.calibrations if selection else {}
    faults = [f"a judgement of {each.member.name}: {each.fault}" for each in searched if each.fault]

    def figures(name: str) -> dict[str, object]:
        agreement = selection.agreements.get(name) if selection else None
        return {"weight": float(name in rule.members), "dev_agreement": agreement}

    return base.changed(
        missing=(*base.missing, *faults),
        rule=rule,
        models=tuple(
            Member.model_validate(
                {**_prompt_facts(each, base=at == 0), **figures(name), "calibration": calibrations.get(name)}
            )
            for at, each in enumerate(searched)
            for name in (each.member.name,)
        ),
        screening=Screening(
            budget_seconds=context.config.model_set_budget_seconds,
            seconds=round(seconds, 3),
            complete=all(each.complete for each in searched),
            trials=tuple(trial for each in searched for trial in each.trials),
        ),
        tfidf=tfidf and TfidfMember.model_validate({**dict(tfidf), **figures(TFIDF)}),
    )


def _prompt_facts(searched: PromptSearchResult, *, base: bool) -> dict[str, object]:
    """A language model's entry but for its figures; the base's prompt is at the top of the file."""
    own = searched.config
    asking = Asking(system_prompt=own.system_prompt, few_shot_examples=own.few_shot_examples, decoding=own.decoding)
    return {
        "name": searched.member.name,
        "digest": searched.member.digest,
        "seconds_per_record": searched.seconds_per_record,
        "prompt_tokens": searched.prompt_tokens,
        "asking": None if base else asking,
        "decision": searched.member.decides,
    }


# --- test records ---


def predict_test(
    made: ModelSet, prepared: Dataset, progress: Progress, members: Sequence[CandidateModel], *, seed: int | None = None
) -> dict[str, Pass]:
    """Rate the test records with the set's rater, under its name, with its best language model as "few-shot" or
    "decision model", and with every other decision model that was judged.

    Few-shot prompts are the longest of all, so where the set is only compared with, `seed` draws FEW_SHOT_SAMPLE
    records. Raises EngineError.
    """
    judged = {each.name for each in made.config.models if each.dev_agreement is not None}
    best = next(member for member in members if member.name == made.best)
    test_examples: Sequence[Example] = prepared.examples.test
    if seed is not None:
        test_examples = sample_of(test_examples, FEW_SHOT_SAMPLE, seed)
    passes = {made.kind: _rate_test(made.config, best, test_examples, prepared, progress)}
    for each in members:
        if each.decides and each.name in judged - {best.name}:
            name = f"{DECISION} {Path(each.name).name}"
            passes[name] = _rate_test(made.config, each, test_examples, prepared, progress)
    if made.name == made.kind or made.config.tfidf is None:
        return passes
    start, test = time.perf_counter(), prepared.split.test
    rated = rate_by_words(made.config.tfidf, test, prepared.scale)
    return {made.name: Pass.of(rated, time.perf_counter() - start, prompt_tokens=0), **passes}


def rate_member(
    member: CandidateModel, examples: Sequence[Example], prepared: Dataset, progress: Progress, title: str
) -> Pass:
    """Rate the examples with the model, with progress under `title`. Raises EngineError."""
    with contextlib.closing(_opened(member)) as engine:
        return rate_shown(progress, engine, examples, prepared.scale, title)


def _opened(member: CandidateModel) -> Engine:
    if member.open is None:
        raise EngineError(f"{member.name}: its file is not on this machine")
    return member.open()


def _rate_test(
    config: ModelSetConfig, member: CandidateModel, examples: Sequence[Example], prepared: Dataset, progress: Progress
) -> Pass:
    title = f"Test records: model set, {Path(member.name).name}"
    if not member.decides:
        asked = [prompted(config, example, member.name) for example in examples]
        return rate_member(member, asked, prepared, progress, title)
    shown = progress.stage(title, total=len(examples), unit="records")
    with contextlib.closing(_opened(member)) as engine, shown as stage:
        return rate_decisions(engine, config, examples, prepared.scale, lambda done, total: stage.advance())
