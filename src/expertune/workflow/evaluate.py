"""Evaluate the chosen product on the test records, once, together with the raters that it is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import EngineError
from ..estimate.job import ANSWERS, TITLES
from ..evaluate.automatable import automatable_share
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..evaluate.label_errors import UnseenRatings, likely_label_errors
from ..evaluate.verdict import WORD_COUNTS
from ..modelset.choose import ENSEMBLE, MODEL_SET, READOUT, TUNE, TUNED
from ..modelset.fit import ModelSet, predict_test, rate_member
from ..predict.score import FIRST_ANSWERS, LONGEST_ANSWER, Pass, Rated, sample_of
from ..predict.uncertainty import Uncertainty, fit_uncertainty
from ..readout.ensemble import Ensemble, fused_pass
from ..record import ApproachChoice
from ..torch_engine import open_base
from .readout import Readout
from .state import Basis, NotTuned, Tuned
from .workspace import Workspace


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
    ensemble: Ensemble | None = None,
) -> Evaluated:
    """Rate the test records with every product and compare them. Raises EngineError unless a model set was chosen."""
    chosen = model_set if choice.approach == MODEL_SET else None
    with ws.stage("judge"):
        if chosen is not None and chosen.dev is None:
            return Evaluated(None, None, unjudged=chosen.unjudged or "")
        try:
            dev, passes, notes = _passes(tuned, model_set, chosen, basis, ws)
            if readout is not None:
                dev[READOUT], passes[READOUT] = readout.dev.rated, readout.test
            if readout is not None and ensemble is not None:
                fused = fused_pass(passes[TUNED], readout.test, ensemble.tuned_weight, basis.dataset.scale)
                dev[ENSEMBLE], passes[ENSEMBLE] = ensemble.dev.rated, fused
            base_test = basis.base_test
            if base_test is None:
                base, data = basis.models.candidates[0], basis.dataset
                base_test = rate_member(base, data.examples["test"], data, ws.progress, TITLES["base"])
        except EngineError as error:
            if chosen is None:
                raise
            return Evaluated(None, None, unjudged=str(error))
        name = chosen.name if chosen else TUNED if choice.approach == TUNE else choice.approach
        dev = {name: dev[name], **dev}
        found = _judged(name, dev[name], passes, notes, basis, base_test)
        return _with_label_errors(found, dev, _unseen_training(model_set, readout, basis), basis)


def _passes(
    tuned: Tuned | NotTuned, model_set: ModelSet | None, chosen: ModelSet | None, basis: Basis, ws: Workspace
) -> tuple[dict[str, Sequence[Rated]], dict[str, Pass], tuple[str, ...]]:
    """Validation records as tuned model and model set rated them, their passes over the test records, and notes.

    The model set comes first where it was `chosen`; else its failure is a note.
    """
    dev: dict[str, Sequence[Rated]] = {}
    by_tuned: dict[str, Pass] = {}
    if isinstance(tuned, Tuned):
        dev[TUNED], by_tuned[TUNED] = tuned.dev.rated, _tuned_test(tuned, ws)
    if model_set is None or model_set.dev is None:
        return dev, by_tuned, ()
    dev[model_set.name] = model_set.dev
    seed = None if chosen and model_set.name != WORD_COUNTS else basis.config.seed
    members = basis.models.candidates if chosen else basis.models.compared
    try:
        by_set = predict_test(model_set, basis.dataset, ws.progress, members, seed=seed)
    except EngineError as error:
        if chosen:
            raise
        return dev, by_tuned, (f"the model set was not evaluated on the test records: {error}",)
    return dev, ({**by_set, **by_tuned} if chosen else {**by_tuned, **by_set}), ()


def _judged(
    name: str, dev: Sequence[Rated], passes: Mapping[str, Pass], notes: tuple[str, ...], basis: Basis, base_test: Pass
) -> Evaluated:
    """Judge the product `name` by its passes over validation (`dev`) and test records; compare it with the others."""
    dataset, config = basis.dataset, basis.config
    known = {each.id for each in dev}
    seen = dataset.without(frozenset(row.id for row in dataset.split.dev if row.id not in known))
    uncertainty = fit_uncertainty(dev, seen.examples["train"], seen.examples["dev"], seen.scale, seed=config.seed)
    others = {other: each for other, each in passes.items() if other != name}
    conformal = uncertainty.conformal
    judgement = judge(name, passes[name], base_test, dataset, config, others=others, conformal=conformal)
    split, calibration = dataset.split, uncertainty.calibration
    rated = (seen.split.dev, dev), (split.test, passes[name].rated)
    automatable = automatable_share(*rated, dataset.scale, split.groups, calibration, config)
    judgement = replace(judgement, automatable=automatable)
    return Evaluated(judgement, uncertainty, (*notes, *_answers_note(passes.get(TUNED))))


def _unseen_training(model_set: ModelSet | None, readout: Readout | None, basis: Basis) -> UnseenRatings:
    """The training records by fits that did not see them, as far as the run has made some."""
    train = basis.dataset.split.train
    if readout is not None:
        return UnseenRatings("train", (READOUT,), train, readout.soft_labels)
    return UnseenRatings("train", ("TF-IDF",), train, model_set.out_of_fold if model_set else {})


def _with_label_errors(
    evaluated: Evaluated, dev: Mapping[str, Sequence[Rated]], train: UnseenRatings, basis: Basis
) -> Evaluated:
    """Add the likely label errors of all parts; the product is the first rater of validation and test records."""
    split, scale, judgement = basis.dataset.split, basis.dataset.scale, evaluated.judgement
    if judgement is None:
        return evaluated
    parts = [
        train,
        UnseenRatings.by_consensus("dev", split.dev, dev, scale),
        UnseenRatings.by_consensus("test", split.test, judgement.raters, scale),
    ]
    errors = likely_label_errors(parts, scale)
    return replace(evaluated, judgement=replace(judgement, label_errors=errors))


def _answers_note(tuned: Pass | None) -> tuple[str, ...]:
    """A note if the tuned model was asked for no more free answers (see `rate_examples`)."""
    answers = sum(each.answer is not None for each in tuned.rated) if tuned else 0
    if tuned is None or answers != FIRST_ANSWERS or answers == len(tuned.rated):
        return ()
    return (
        f"the tuned model ended none of its first {answers} free-text answers within {LONGEST_ANSWER} tokens; "
        "it was asked for no more",
    )


def _tuned_test(tuned: Tuned, ws: Workspace) -> Pass:
    """Pass of the saved file over the test records, with its free-text answers to a sample of them."""
    encoded = tuned.encoded
    plan, dataset = encoded.plan, encoded.dataset
    answers = plan.job.answers_within(ws.elapsed) if plan.job else ANSWERS

    def rate() -> Pass:
        opened = open_base(plan.base, plan.config, context=encoded.context, file=tuned.file)
        with contextlib.closing(opened) as engine:
            examples, scale = dataset.examples["test"], dataset.scale
            answered = {example.id for example in sample_of(examples, answers, plan.config.seed)}
            title, by = "Test records: tuned model", tuned.scoring
            return rate_shown(ws.progress, engine, examples, scale, title, answered=answered, scoring=by)

    return ws.once("tuned-test", plan.run_id, rate)
