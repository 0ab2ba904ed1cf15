"""Evaluate the chosen product on the test records, once, together with the raters that it is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import EngineError
from ..estimate.job import ANSWERS
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..modelset.choose import MODEL_SET, READOUT
from ..modelset.fit import FEW_SHOT, ModelSet, predict_test
from ..predict.score import Pass, Rated, sample_of
from ..predict.uncertainty import Uncertainty, learn_uncertainty
from ..record import ApproachChoice
from .readout import Readout
from .state import Basis, NotTuned, Tuned
from .workspace import Workspace

TUNED = "tuned"


@dataclass(frozen=True)
class Evaluated:
    """Evaluation of the chosen product; `judgement` and `uncertainty` are None if nothing could rate the records."""

    judgement: Judgement | None
    uncertainty: Uncertainty | None
    notes: tuple[str, ...] = ()
    unjudged: str = ""


def evaluate(
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    model_set: ModelSet | None,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None = None,
) -> Evaluated:
    """Rate the test records with every product and compare them. Raises EngineError unless a model set was chosen."""
    with ws.stage("judge"):
        try:
            return _evaluate(choice, tuned, model_set, basis, ws, readout)
        except EngineError as error:
            if choice.approach != MODEL_SET:
                raise
            return Evaluated(None, None, unjudged=str(error))


def _evaluate(
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    model_set: ModelSet | None,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None,
) -> Evaluated:
    chosen = model_set if choice.approach == MODEL_SET else None
    if chosen is not None and chosen.dev is None:
        return Evaluated(None, None, unjudged=chosen.unjudged or "")
    dev: dict[str, Sequence[Rated]] = {}
    by_tuned, by_readout = {}, {}
    if isinstance(tuned, Tuned):
        dev[TUNED], by_tuned[TUNED] = tuned.dev.rated, _tuned_test(tuned, ws)
    by_set, notes = _model_set_test(model_set, basis, ws, chosen=chosen is not None)
    if model_set is not None and model_set.dev is not None:
        dev[model_set.name] = model_set.dev
    if readout is not None:
        dev[READOUT], by_readout[READOUT] = readout.dev.rated, readout.test
    passes = {**by_set, **by_tuned, **by_readout} if chosen else {**by_tuned, **by_set, **by_readout}
    name = chosen.name if chosen else READOUT if choice.approach == READOUT else TUNED
    return _judged(name, dev[name], passes, notes, basis, basis.base_test or _base_test(basis, ws))


def _judged(
    name: str, dev: Sequence[Rated], passes: Mapping[str, Pass], notes: tuple[str, ...], basis: Basis, base_test: Pass
) -> Evaluated:
    """Judge the product `name` by its passes over validation (`dev`) and test records; compare it with the others."""
    dataset, config = basis.dataset, basis.config
    known = {each.id for each in dev}
    seen = dataset.without(frozenset(row.id for row in dataset.split.dev if row.id not in known))
    uncertainty = learn_uncertainty(dev, seen, config)
    others = {other: each for other, each in passes.items() if other != name}
    conformal = uncertainty.conformal
    judgement = judge(name, passes[name], base_test, dataset, config, others=others, conformal=conformal)
    return Evaluated(judgement, uncertainty, notes)


def _model_set_test(
    model_set: ModelSet | None, basis: Basis, ws: Workspace, *, chosen: bool
) -> tuple[Mapping[str, Pass], tuple[str, ...]]:
    """Passes of the model set, if there is one that could be evaluated; unless it was chosen, a failure is a note."""
    if model_set is None or model_set.dev is None:
        return {}, ()
    seed = None if chosen and model_set.name == FEW_SHOT else basis.config.seed
    try:
        return predict_test(model_set, basis.dataset, ws.progress, basis.models.candidates, seed=seed), ()
    except EngineError as error:
        if chosen:
            raise
        return {}, (f"the model set was not evaluated on the test records: {error}",)


def _tuned_test(tuned: Tuned, ws: Workspace) -> Pass:
    """Pass of the saved file over the test records, with its free-text answers to a sample of them."""
    encoded = tuned.encoded
    plan, dataset = encoded.plan, encoded.dataset
    answers = plan.job.answers_within(ws.elapsed) if plan.job else ANSWERS

    def rate() -> Pass:
        with plan.base.open(context=encoded.context, threads=plan.config.threads, file=tuned.file) as engine:
            examples, scale = dataset.examples["test"], dataset.scale
            answered = {example.id for example in sample_of(examples, answers, plan.config.seed)}
            return rate_shown(ws.progress, engine, examples, scale, "Tuned model: test records", answered=answered)

    return ws.once("tuned-test", plan.run_id, rate)


def _base_test(basis: Basis, ws: Workspace) -> Pass:
    base = basis.models.candidates[0]
    if base.open is None:
        raise EngineError(f"{base.name}: its file is not on this machine")
    with contextlib.closing(base.open()) as engine:
        examples, scale = basis.dataset.examples["test"], basis.dataset.scale
        return rate_shown(ws.progress, engine, examples, scale, "Base model: test records")
