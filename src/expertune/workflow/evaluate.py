"""Evaluate the chosen product on the test records, once, together with the raters that it is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..errors import EngineError
from ..estimate.job import ANSWERS
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..modelset.choose import READOUT, TUNE
from ..modelset.fit import FEW_SHOT, ModelSet, predict_test
from ..predict.score import Pass, Rated, sample_of
from ..predict.uncertainty import Uncertainty, learn_uncertainty
from ..record import ApproachChoice
from .readout import Readout
from .state import Basis, NotTuned, Tuned
from .workspace import Workspace

Passes = Mapping[str, Pass]
TUNED = "tuned"


@dataclass(frozen=True)
class Evaluated:
    """Evaluation of the chosen product; `judgement` and `uncertainty` are None if nothing could rate the records."""

    judgement: Judgement | None
    uncertainty: Uncertainty | None
    notes: tuple[str, ...] = ()
    unjudged: str = ""


@dataclass(frozen=True)
class _Rated:
    """Name and passes of the product, and passes of the other products over the test records."""

    name: str
    dev: Sequence[Rated]
    test: Pass
    base_test: Pass
    others: Passes
    notes: tuple[str, ...] = ()


def evaluate(
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    model_set: ModelSet | None,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None = None,
) -> Evaluated:
    """Rate the test records with every product and compare them. Raises EngineError for a tuned model only."""
    with ws.stage("judge"):
        if readout is not None and choice.approach == READOUT:
            return _judged(_rate_readout(readout, tuned, model_set, basis, ws), basis)
        if choice.approach == TUNE and isinstance(tuned, Tuned):
            return _judged(_with_readout(_rate_tuned(tuned, model_set, basis, ws), readout), basis)
        assert model_set is not None  # choose() names an existing one
        if model_set.dev is None:
            return Evaluated(None, None, unjudged=model_set.unjudged or "")
        try:
            rated = _rate_model_set(model_set, model_set.dev, tuned, basis, ws)
            return _judged(_with_readout(rated, readout), basis)
        except EngineError as error:
            return Evaluated(None, None, unjudged=str(error))


def _judged(rated: _Rated, basis: Basis) -> Evaluated:
    dataset, config = basis.dataset, basis.config
    known = {each.id for each in rated.dev}
    seen = dataset.without(frozenset(row.id for row in dataset.split.dev if row.id not in known))
    uncertainty = learn_uncertainty(rated.dev, seen, config)
    judgement = judge(
        rated.name,
        rated.test,
        rated.base_test,
        dataset,
        config,
        others=rated.others,
        conformal=uncertainty.conformal,
    )
    return Evaluated(judgement, uncertainty, rated.notes)


def _rate_tuned(tuned: Tuned, model_set: ModelSet | None, basis: Basis, ws: Workspace) -> _Rated:
    """Rate with the tuned model, then with the model set, whose failure must not end the run."""
    test = _tuned_test(tuned, ws)
    others, notes = _model_set_test(model_set, basis, ws)
    return _Rated(TUNED, tuned.dev.rated, test, tuned.encoded.test, others, notes)


def _rate_readout(
    readout: Readout, tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis, ws: Workspace
) -> _Rated:
    """Rate with the readout, and with the products that it was chosen over; a model set's failure ends nothing."""
    by_tuned = {TUNED: _tuned_test(tuned, ws)} if isinstance(tuned, Tuned) else {}
    others, notes = _model_set_test(model_set, basis, ws)
    base = basis.base_test or _base_test(basis, ws)
    return _Rated(READOUT, readout.dev.rated, readout.test, base, {**by_tuned, **others}, notes)


def _with_readout(rated: _Rated, readout: Readout | None) -> _Rated:
    return rated if readout is None else replace(rated, others={**rated.others, READOUT: readout.test})


def _model_set_test(model_set: ModelSet | None, basis: Basis, ws: Workspace) -> tuple[Passes, tuple[str, ...]]:
    """Passes of the model set, if there is one that could be evaluated, and a note if it failed."""
    if model_set is None or model_set.dev is None:
        return {}, ()
    try:
        candidates, seed = basis.models.candidates, basis.config.seed
        return predict_test(model_set, basis.dataset, ws.progress, candidates, seed=seed), ()
    except EngineError as error:
        return {}, (f"the model set was not evaluated on the test records: {error}",)


def _rate_model_set(
    model_set: ModelSet, dev: Sequence[Rated], tuned: Tuned | NotTuned, basis: Basis, ws: Workspace
) -> _Rated:
    """Rate with the model set, and with the tuned model that it was chosen over, if any."""
    by_tuned = {TUNED: _tuned_test(tuned, ws)} if isinstance(tuned, Tuned) else {}
    seed = None if model_set.name == FEW_SHOT else basis.config.seed
    passes = predict_test(model_set, basis.dataset, ws.progress, basis.models.candidates, seed=seed)
    base = basis.base_test or _base_test(basis, ws)
    others = {name: each for name, each in passes.items() if name != model_set.name}
    return _Rated(model_set.name, dev, passes[model_set.name], base, {**others, **by_tuned})


def _tuned_test(tuned: Tuned, ws: Workspace) -> Pass:
    """Pass of the saved file over the test records, with its free-text answers to a sample of them."""
    encoded = tuned.encoded
    plan, dataset = encoded.plan, encoded.dataset
    answers = plan.job.answers_within(ws.elapsed) if plan.job else ANSWERS

    def rate_file() -> Pass:
        with plan.base.open(context=encoded.context, threads=plan.config.threads, file=tuned.file) as engine:
            examples, scale = dataset.examples["test"], dataset.scale
            answered = {example.id for example in sample_of(examples, answers, plan.config.seed)}
            rate = partial(rate_shown, ws.progress, engine, examples, scale, "Tuned model: test records")
            return rate(answered=answered, scoring=tuned.scoring)

    return ws.once("tuned-test", plan.run_id, rate_file)


def _base_test(basis: Basis, ws: Workspace) -> Pass:
    base = basis.models.candidates[0]
    if base.open is None:
        raise EngineError(f"{base.name}: its file is not on this machine")
    with contextlib.closing(base.open()) as engine:
        examples, scale = basis.dataset.examples["test"], basis.dataset.scale
        return rate_shown(ws.progress, engine, examples, scale, "Base model: test records")
