"""Evaluate the chosen product on the test records, once, together with the raters that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from ..errors import EngineError
from ..estimate.job import ANSWERS, RunStage
from ..evaluate.judgement import Judgement, judge, rate_shown
from ..evaluate.label_errors import ByRater, UnseenRatings
from ..evaluate.verdict import WORD_COUNTS
from ..modelset.choose import MODEL_SET, READOUT
from ..modelset.fit import ModelSet, predict_test, rate_member
from ..predict.score import Pass, sample_of, unfinished_notes
from ..readout.build import Readout
from ..record import ApproachChoice
from ..torch_engine import open_base
from ..workspace import Workspace
from .state import Basis, NotTuned, Tuned

TUNED = "tuned"


@dataclass(frozen=True)
class Evaluated:
    """Evaluation of the chosen product; `judgement` is None if nothing could rate the records, for `unjudged`."""

    judgement: Judgement | None
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
    chosen = model_set if choice.approach == MODEL_SET else None
    dataset, test, title = basis.dataset, basis.dataset.examples.test, RunStage.BASE.shown
    with ws.stage("judge"):
        if chosen is not None and chosen.dev is None:
            return Evaluated(None, unjudged=chosen.unjudged or "")
        try:
            by_tuned = {TUNED: _tuned_test(tuned, ws)} if isinstance(tuned, Tuned) else {}
            by_set, notes = _by_model_set(model_set, basis, ws, chosen=chosen is not None)
            base_test = basis.base_test or rate_member(basis.models.candidates[0], test, dataset, ws.progress, title)
        except EngineError as error:
            if chosen is None:
                raise
            return Evaluated(None, unjudged=str(error))
        name = chosen.name if chosen else READOUT if choice.approach == READOUT else TUNED
        passes = {**by_set, **by_tuned} if chosen else {**by_tuned, **by_set}
        by_readout = {READOUT: readout.test} if readout else {}
        dev, train = _on_validation(tuned, model_set, readout), _on_training(model_set, readout, basis)
        judgement = judge(name, dev, {**passes, **by_readout}, base_test, train, dataset, basis.config)
        return Evaluated(judgement, (*notes, *(note for each in by_tuned.values() for note in unfinished_notes(each))))


def _by_model_set(
    model_set: ModelSet | None, basis: Basis, ws: Workspace, *, chosen: bool
) -> tuple[Mapping[str, Pass], tuple[str, ...]]:
    """The passes of the model set over the test records, and a note if they failed, where it was not `chosen`."""
    if model_set is None or model_set.dev is None:
        return {}, ()
    seed = None if chosen and model_set.name != WORD_COUNTS else basis.config.seed
    members = basis.models.candidates if chosen else basis.models.compared
    try:
        return predict_test(model_set, basis.dataset, ws.progress, members, seed=seed), ()
    except EngineError as error:
        if chosen:
            raise
        return {}, (f"the model set was not evaluated on the test records: {error}",)


def _on_validation(tuned: Tuned | NotTuned, model_set: ModelSet | None, readout: Readout | None) -> ByRater:
    """The validation records by every product."""
    by_tuned = {TUNED: tuned.dev.rated} if isinstance(tuned, Tuned) else {}
    by_set = {model_set.name: model_set.dev} if model_set and model_set.dev is not None else {}
    return {**by_tuned, **by_set, **({READOUT: readout.dev.rated} if readout else {})}


def _on_training(model_set: ModelSet | None, readout: Readout | None, basis: Basis) -> UnseenRatings:
    """The training records by fits that did not see them, as far as the run has made some."""
    train = basis.dataset.split.train
    if readout is not None:
        return UnseenRatings("train", (READOUT,), train, readout.soft_labels)
    return UnseenRatings("train", ("TF-IDF",), train, model_set.out_of_fold if model_set else {})


def _tuned_test(tuned: Tuned, ws: Workspace) -> Pass:
    """Pass of the saved file over the test records, with its free-text answers to a sample of them."""
    encoded = tuned.encoded
    plan, examples, scale = encoded.plan, encoded.dataset.examples.test, encoded.dataset.scale
    answers = encoded.job.answers_within(ws.elapsed) if encoded.job else ANSWERS
    answered = {example.id for example in sample_of(examples, answers, plan.config.seed)}

    def rate() -> Pass:
        opened = open_base(plan.base, plan.config, context=encoded.context, file=tuned.file)
        with closing(opened) as engine:
            title, by = "Test records: tuned model", tuned.scoring
            return rate_shown(ws.progress, engine, examples, scale, title, answered=answered, scoring=by)

    return ws.once("tuned-test", plan.run_id, rate)
