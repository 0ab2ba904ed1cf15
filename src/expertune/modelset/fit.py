"""Build model_set_config.json within a time: choose how to ask each model, then who of them rates; all on dev rows.

A valid file lies there from the first second on, and each time that something better is found.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import Config
from ..errors import EngineError
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..predict.score import Pass
from ..predict.uncertainty import Uncertainty, learn_uncertainty
from ..progress import Progress
from ..ratings.dataset import Dataset
from . import build
from .members import CandidateModel
from .pool import combine
from .prompt_search import BuildContext, Clock, PromptSearchResult, as_asked, ask
from .records import TFIDF
from .select_raters import ENSEMBLE, RaterSelection, rated_rows, weigh
from .tfidf_classifier import predict_tfidf
from .training_signals import NOTHING, gather

FEW_SHOT, WORDS = "few-shot", "TF-IDF set"


@dataclass(frozen=True)
class ModelSet:
    """The configuration as written. `dev` holds the dev rows that were rated, as the rule rates them, in dev's order.

    `name` is what its rater is called in a report, `best` its best language model; `unjudged` says why it has no `dev`.
    """

    content: dict[str, Any]
    name: str
    best: str
    dev: Pass | None
    unjudged: str | None


def make_set(
    folder: Path,
    prepared: Dataset,
    config: Config,
    progress: Progress,
    members: Sequence[CandidateModel],
    *,
    clock: Clock = time.monotonic,
) -> ModelSet:
    """Build and write the set of `members`, the base first, in about `config.model_set_budget_seconds`.

    Reads no test row's text.
    Raises ModelSetConfigError and OutputError; a model that cannot be served is told of in the file under "missing".
    """
    started = clock()
    path = folder / outputs.MODEL_SET
    material = NOTHING if config.redact else gather(prepared.split, prepared.scale, seed=config.seed)
    maker = BuildContext(path, prepared, config, progress, material, clock, started + config.model_set_budget_seconds)
    first = build.recipes(len(prepared.scale.labels), redact=config.redact)[0]
    build.write(path, maker.content(members[0], first))
    asked = []
    for at, member in enumerate(members):
        left = max(0.0, maker.deadline - clock()) / (len(members) - at)
        asked.append(ask(replace(maker, deadline=clock() + left), member, first, leads=at == 0))
    weighed = _weigh(maker, asked)
    content = _assemble(maker, asked, weighed, clock() - started)
    build.write(path, content)
    if weighed is None:
        fault = next((each.fault for each in asked if each.fault), "there was no time to rate a dev row")
        return ModelSet(content, FEW_SHOT, members[0].name, None, fault)
    dev = Pass(weighed.rated, 0.0, 0.0, 0)
    return ModelSet(content, _name(content), weighed.best, dev, None)


def _name(content: Mapping[str, Any]) -> str:
    rule = content["rule"]
    if rule["kind"] == "ensemble":
        return ENSEMBLE
    return WORDS if rule["members"] == [TFIDF] else FEW_SHOT


# --- all of them ---


def _weigh(maker: BuildContext, asked: Sequence[PromptSearchResult]) -> RaterSelection | None:
    """The rule, by the dev rows that every judged member has rated; None where there is none."""
    judged = [each for each in asked if each.rated]
    if not judged:
        return None
    prepared = maker.prepared
    rows = sorted(set.intersection(*(set(each.rated) for each in judged)))
    truth = [prepared.split.dev[row] for row in rows]
    shares = {each.member.name: [each.rated[row] for row in rows] for each in judged}
    if maker.material.words is not None:
        shares[TFIDF] = predict_tfidf(maker.material.words, [row.prompt for row in truth], prepared.scale.labels)
    return weigh(shares, truth, prepared.scale, prepared.split.groups, maker.config)


def _assemble(
    maker: BuildContext, asked: Sequence[PromptSearchResult], weighed: RaterSelection | None, seconds: float
) -> dict[str, Any]:
    """The whole configuration: the base's own, with every member's figures in it."""
    base = asked[0].content
    rule, words = weighed.rule if weighed else base["rule"], maker.material.words
    faults = [f"a judgement of {each.member.name}: {each.fault}" for each in asked if each.fault]
    return {
        **base,
        "missing": [*base["missing"], *faults],
        "rule": rule,
        "models": [_model(each, weighed, base=at == 0) for at, each in enumerate(asked)],
        "screening": {
            "budget_seconds": maker.config.model_set_budget_seconds,
            "seconds": round(seconds, 3),
            "complete": all(each.complete for each in asked),
            "trials": [trial for each in asked for trial in each.trials],
        },
        "tfidf": {**_figures(TFIDF, weighed), **words} if words is not None else None,
    }


def _figures(name: str, weighed: RaterSelection | None) -> dict[str, Any]:
    if weighed is None or name not in weighed.weights:
        return {"weight": 0.0, "calibration": None, "dev_agreement": None}
    return {
        "weight": weighed.weights[name],
        "calibration": weighed.calibrations.get(name),
        "dev_agreement": weighed.agreements[name],
    }


def _model(asked: PromptSearchResult, weighed: RaterSelection | None, *, base: bool) -> dict[str, Any]:
    own = asked.content
    return {
        "name": asked.member.name,
        "digest": asked.member.digest,
        **(_figures(asked.member.name, weighed) if weighed else {**_figures("", None), "weight": float(base)}),
        "seconds_per_record": asked.seconds_per_record,
        "prompt_tokens": asked.prompt_tokens,
        "asking": None if base else {key: own[key] for key in ("system_prompt", "few_shot_examples", "decoding")},
    }


# --- the rows that nothing has seen ---


def rate_test(
    made: ModelSet, prepared: Dataset, progress: Progress, members: Sequence[CandidateModel]
) -> dict[str, Pass]:
    """The test rows by the set's rule, under its name; beside it its best language model as "few-shot".

    Raises EngineError.
    """
    scale, rows = prepared.scale, prepared.examples["test"]
    rule, needed = made.content["rule"]["members"], dict.fromkeys((made.best, *made.content["rule"]["members"]))
    passes: dict[str, Pass] = {}
    for member in members:
        if member.name in needed and member.open is not None:
            asked = [as_asked(made.content, example, member.name) for example in rows]
            with contextlib.closing(member.open()) as engine:
                shown = f"Model set, test rows, {Path(member.name).name}"
                passes[member.name] = rate_shown(progress, engine, asked, scale, shown)
    few_shot = passes[made.best]
    if made.name == FEW_SHOT:
        return {FEW_SHOT: few_shot}
    start = time.perf_counter()
    shares = {name: [each.probabilities for each in found.rated] for name, found in passes.items()}
    if TFIDF in rule:
        shares[TFIDF] = predict_tfidf(made.content["tfidf"], [row.prompt for row in prepared.split.test], scale.labels)
    mixed = [combine(made.content, {name: shares[name][at] for name in rule}) for at in range(len(prepared.split.test))]
    seconds = time.perf_counter() - start + sum(passes[name].seconds for name in rule if name in passes)
    tokens = sum(passes[name].prompt_tokens for name in rule if name in passes)
    rated = tuple(rated_rows(prepared.split.test, mixed, scale))
    return {made.name: Pass(rated, seconds, len(rated) / seconds, tokens), FEW_SHOT: few_shot}


@dataclass(frozen=True)
class JudgedSet:
    """What a run tells of its set: the judgement on test rows, and what later ratings need."""

    judgement: Judgement
    trust: Uncertainty


def judge_set(
    made: ModelSet,
    prepared: Dataset,
    config: Config,
    progress: Progress,
    members: Sequence[CandidateModel],
    *,
    base_test: Pass | None,
    beside: Mapping[str, Pass] | None = None,
) -> JudgedSet:
    """The test rows once, by the set and those beside it. `made` must have rated dev rows. Raises EngineError."""
    passes = rate_test(made, prepared, progress, members)
    base = base_test or _rate_base(prepared, progress, members[0])
    others = {name: found for name, found in passes.items() if name != made.name}
    dev = made.dev or Pass((), 0.0, 0.0, 0)
    rated = {each.id for each in dev.rated}
    unrated = frozenset(row.id for row in prepared.split.dev if row.id not in rated)
    trust = learn_uncertainty(dev, prepared.without(unrated), config)
    beside = {**others, **(beside or {})}
    facts = (passes[made.name], base, prepared, config)
    return JudgedSet(judge(made.name, *facts, beside=beside, conformal=trust.conformal), trust)


def _rate_base(prepared: Dataset, progress: Progress, base: CandidateModel) -> Pass:
    if base.open is None:
        raise EngineError(f"{base.name}: its file is not on this machine")
    with contextlib.closing(base.open()) as engine:
        return rate_shown(progress, engine, prepared.examples["test"], prepared.scale, "Base, test rows")
