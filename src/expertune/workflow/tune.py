"""Fit the readout on the base; tune the base: train the adapter, merge it, require a gain in macro-F1."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from functools import partial

from .. import outputs
from ..errors import FineTuningNotSupportedError, TrainingFailedError
from ..estimate.job import RunStage
from ..evaluate.judgement import rate_shown
from ..export.merged import MergeTarget, merge
from ..export.summary import summarize_export
from ..gguf.read import GGUFFile
from ..modelset.code_branch import decision_of, scored
from ..modelset.word_pool import teacher
from ..predict.score import Pass
from ..readout.build import Readout, build_readout
from ..torch_engine import LLAMA_CPP, open_base, rating_in_a_run
from ..train.interrupt import stop_after_step
from ..tuned.adapter import train_adapter
from ..tuned.check import check_file, require_gain_over_base, served_or_diverged, write_file
from ..workspace import Workspace
from .state import EncodedDataset, NotTuned, RunRequest, Tuned, as_value

log = logging.getLogger("expertune")


def fit_readout(encoded: EncodedDataset | NotTuned, ws: Workspace) -> Readout | None:
    """Fit the readout; None if none was requested or it cannot be fitted. Raises OutputError.

    With --approach tune it is not recommended, but its out-of-fold predictions are the adapter's soft labels.
    """
    if isinstance(encoded, NotTuned) or not encoded.plan.config.readout:
        return None
    with ws.stage("readout"):
        return build_readout(encoded, ws)


def tune(encoded: EncodedDataset | NotTuned, readout: Readout | None, ws: Workspace) -> Tuned | NotTuned:
    """Train and merge; NotTuned if the file is not better than its base on validation records. Raises Interrupted."""
    return encoded if isinstance(encoded, NotTuned) else as_value(lambda: _tune(encoded, readout, ws))


def require_tuned_or_fallback(tuned: Tuned | NotTuned, request: RunRequest, ws: Workspace) -> None:
    """Raise the error of a failed tuning unless a model set may replace the tuned model."""
    if isinstance(tuned, Tuned) or tuned.error is None:
        return
    failed = isinstance(tuned.error, TrainingFailedError)
    if not failed and ws.resume and any(ws.checkpoints.rglob("*.pt")):
        raise FineTuningNotSupportedError(  # a model set would end the run and delete the checkpoints
            f"{tuned.error}; the stopped training is kept: --resume continues it once this is fixed, and the command "
            "without --resume makes a model set"
        )
    if not request.fallback:
        if failed:
            outputs.remove_checkpoints(ws.folder)  # the same settings would fail again
        raise tuned.error
    log.warning("falling back to the model set: %s", tuned.error)


def _tune(encoded: EncodedDataset, readout: Readout | None, ws: Workspace) -> Tuned:
    from ..train.distributed import training_ranks  # imports torch, which only tuning needs

    config = encoded.plan.config
    with GGUFFile(encoded.plan.base.path) as file:
        with ws.stage("train"), training_ranks(ws.nproc) as ranks, stop_after_step() as should_stop:
            taught_by = readout.teacher if readout else teacher(encoded.dataset, config)
            trained = train_adapter(file, encoded, taught_by, encoded.job, ws, should_stop, ranks)
        with ws.stage("export"), ws.progress.whole.part("write"), served_or_diverged(trained):
            summary, path = trained.summary, ws.checkpoints / outputs.MODEL
            keys = decision_of(encoded, encoded.frame, summary.family, trained.adapter_dev, trained.code_dev)
            metadata = {**encoded.plan.provenance, **keys.metadata}
            target = MergeTarget(path, file, trained.update, metadata, summary.threads)
            merged = merge(
                target, config, partial(write_file, target, ws), partial(check_file, encoded, trained, target, ws)
            )
            by_file = merged.checked.served if config.engine == LLAMA_CPP else merged.checked.reread
            export = summarize_export(file, merged, by_file, encoded.test)
    words = merged.checked.reread.rated
    require_gain_over_base(words, trained, encoded)
    branch = scored(encoded, keys, words, merged.checked.by_code)
    tuned = Tuned(path, by_file, summary, export, trained.history, encoded, branch)
    return tuned if tuned.scoring.by == "words" else replace(tuned, dev=_rate_dev(tuned, ws))


def _rate_dev(tuned: Tuned, ws: Workspace) -> Pass:
    """The validation records by the merged file as its labels are to be scored."""
    plan, dataset = tuned.encoded.plan, tuned.encoded.dataset
    opened = open_base(plan.base, rating_in_a_run(plan.config), context=tuned.encoded.context, file=tuned.file)
    title, examples = f"{RunStage.CHECK.shown}: ratings by code", dataset.examples.dev
    with ws.stage("export"), ws.part("check"), closing(opened) as engine:
        return rate_shown(ws.progress, engine, examples, dataset.scale, title, scoring=tuned.scoring)
