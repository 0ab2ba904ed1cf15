"""The stages of a run in order, from the ratings to the registered model; a dry run ends after the first ones."""

from __future__ import annotations

from collections.abc import Callable

from ..progress.whole_job import plan_lines
from ..ratings.dataset import Dataset
from ..record import RunRecord
from ..register.folder import register_result
from ..workspace import Workspace
from .choose import choose, fit_model_set
from .encode import encode_dataset, time_run
from .evaluate import evaluate
from .plan import find_models, plan_training
from .record import write_results
from .state import NotTuned, RunRequest, basis_of
from .tune import fit_readout, require_tuned_or_fallback, tune

Announce = Callable[[RunRecord], None]


def run(request: RunRequest, dataset: Dataset, ws: Workspace, announce: Announce) -> RunRecord:
    """Tune the model of `request` on `dataset`, or fall back to a model set; then evaluate, write and register.

    Each stage takes frozen records and returns one; `NotTuned` is a value that passes through. `announce` is called
    with the record when the results are written, before registration. Raises as FineTuner.process_dataset.
    """
    models = find_models(request, ws)  # the base file, and the models that a model set may prompt
    plan = plan_training(dataset, models, request, ws)  # TrainingPlan | NotTuned
    encoded = encode_dataset(plan, ws)  # EncodedDataset | NotTuned: token rows, the base's predictions
    readout = fit_readout(encoded, ws)  # Readout | None: classifier on the base's hidden states
    tuned = tune(encoded, readout, ws)  # Tuned | NotTuned: adapter and merged file
    require_tuned_or_fallback(tuned, request, ws)
    basis = basis_of(dataset, request, models, plan, encoded)
    model_set = fit_model_set(tuned, basis, ws, readout)  # ModelSet | None
    choice = choose(tuned, model_set, basis, readout)  # on validation records only
    evaluated = evaluate(choice, tuned, model_set, basis, ws, readout)  # test records, once
    record = write_results(request, choice, tuned, model_set, evaluated, basis, ws, readout)
    ws.tracking.final(record.evaluation)
    announce(record)
    return register_result(request.registration, record, basis.dataset, ws.folder, ws.progress)


def dry_run(request: RunRequest, dataset: Dataset, ws: Workspace) -> list[str]:
    """The settings that `run` would use and its times, in lines; writes nothing.

    Raises what the run itself would raise before its long work.
    """
    timed = time_run(plan_training(dataset, find_models(request, ws), request, ws), ws)
    parts = "{train} training, {dev} validation and {test} test records".format(**dataset.counts.parts())
    if isinstance(timed, NotTuned):
        require_tuned_or_fallback(timed, request, ws)
        seconds = request.config.model_set_budget_seconds
        why = f"No tuned model: {timed.reason}" if timed.reason else "No tuned model: --approach model-set"
        return [parts, why, f"A model set would be made in about {seconds:g} s; its evaluation comes on top"]
    plan, job = timed
    return [parts, plan.line(), *(plan_lines(job) if job else ["Its time could not be measured"])]
