"""Evaluate what was chosen on the test records, once, next to everything else that can rate them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import EngineError
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..modelset.fit import ModelSet, predict_test
from ..predict.score import Pass, Rated
from ..predict.uncertainty import Uncertainty, learn_uncertainty
from ..record import ApproachChoice
from .choose import TUNE
from .state import Basis, NotTuned, Tuned
from .workspace import Workspace

Passes = Mapping[str, Pass]
TUNED = "tuned"


@dataclass(frozen=True)
class Evaluated:
    """The chosen product on the test records. `judgement` and `uncertainty` are None where nothing could rate them."""

    judgement: Judgement | None
    uncertainty: Uncertainty | None
    notes: tuple[str, ...] = ()
    unjudged: str = ""


@dataclass(frozen=True)
class _Rated:
    """The product's name and passes, and the other products on the test records."""

    name: str
    dev: Sequence[Rated]
    test: Pass
    base_test: Pass
    others: Passes
    notes: tuple[str, ...] = ()


def evaluate(
    choice: ApproachChoice, tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis, ws: Workspace
) -> Evaluated:
    """Rate the test records with every product, and compare them. Raises EngineError for a tuned file only."""
    with ws.stage("judge"):
        if choice.approach == TUNE and isinstance(tuned, Tuned):
            return _judged(_rate_tuned(tuned, model_set, basis, ws), basis)
        assert model_set is not None  # choose() names one that is there
        if model_set.dev is None:
            return Evaluated(None, None, unjudged=model_set.unjudged or "")
        try:
            return _judged(_rate_model_set(model_set, model_set.dev, tuned, basis, ws), basis)
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
        beside=rated.others,
        conformal=uncertainty.conformal,
    )
    return Evaluated(judgement, uncertainty, rated.notes)


def _rate_tuned(tuned: Tuned, model_set: ModelSet | None, basis: Basis, ws: Workspace) -> _Rated:
    """The tuned file first; a model set that cannot rate a record must not end the run."""
    test, others, notes = _tuned_test(tuned, ws), {}, ()
    if model_set is not None and model_set.dev is not None:
        try:
            others = predict_test(model_set, basis.dataset, ws.progress, basis.models.candidates)
        except EngineError as error:
            notes = (f"the model set was not judged on the test rows: {error}",)
    return _Rated(TUNED, tuned.dev.rated, test, tuned.encoded.test, others, notes)


def _rate_model_set(
    model_set: ModelSet, dev: Sequence[Rated], tuned: Tuned | NotTuned, basis: Basis, ws: Workspace
) -> _Rated:
    """The model set first; beside it a tuned file that it was chosen over."""
    mine = {TUNED: _tuned_test(tuned, ws)} if isinstance(tuned, Tuned) else {}
    passes = predict_test(model_set, basis.dataset, ws.progress, basis.models.candidates)
    base = basis.base_test or _base_test(basis, ws)
    others = {name: found for name, found in passes.items() if name != model_set.name}
    return _Rated(model_set.name, dev, passes[model_set.name], base, {**others, **mine})


def _tuned_test(tuned: Tuned, ws: Workspace) -> Pass:
    """The test records by the finished file, with its free answers."""
    encoded = tuned.encoded
    plan, dataset = encoded.plan, encoded.dataset

    def rate() -> Pass:
        with plan.base.open(context=encoded.context, threads=plan.config.threads, file=tuned.file) as engine:
            examples, scale = dataset.examples["test"], dataset.scale
            return rate_shown(ws.progress, engine, examples, scale, "Finished file, test rows", generate=True)

    return ws.once("tuned-test", plan.run_id, rate)


def _base_test(basis: Basis, ws: Workspace) -> Pass:
    base = basis.models.candidates[0]
    if base.open is None:
        raise EngineError(f"{base.name}: its file is not on this machine")
    with contextlib.closing(base.open()) as engine:
        return rate_shown(ws.progress, engine, basis.dataset.examples["test"], basis.dataset.scale, "Base, test rows")
