"""Fit the readout on the base; tune the base: train the adapter, merge it, require a gain in macro-F1."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from .. import outputs
from ..errors import EngineError, FineTuningNotSupportedError, TrainingFailedError
from ..estimate.job import SERVED_SAMPLE, TITLES
from ..evaluate.compare import groups_of
from ..evaluate.judgement import dev_macro_f1, rate_shown
from ..export.agreement import CheckedFile, ValidationTruth, check
from ..export.merged import MergeTarget, merge, merged_bytes, write_merged
from ..export.quant_types import TypeChoice, WeightUpdate
from ..export.summary import summarize_export
from ..gguf.read import GGUFFile
from ..gguf.write import write_adapter
from ..modelset.code_branch import decision_of, scored
from ..modelset.tfidf_classifier import soft_labels
from ..predict.score import Pass, Rated, sample_of
from ..readout.build import Readout, build_readout
from ..torch_engine import LLAMA_CPP, open_base, rate_validation, rated_rows, rating_in_a_run
from ..train.advice import failed, rate_too_high
from ..train.class_balance import SoftLabels
from ..train.events import Event
from ..train.interrupt import stop_after_step
from ..train.summary import TrainingSummary, summarize_training
from ..workspace import Workspace
from .state import EncodedDataset, NotTuned, RunRequest, Tuned, as_value

log = logging.getLogger("expertune")

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Trained:
    """The trained adapter as matrices, and the record of its training.

    `base_dev` and `adapter_dev` are the validation records by our decoder, without and with the adapter; `code_dev`
    those with the adapter by the codes of the labels, empty without a code branch.
    """

    update: WeightUpdate
    summary: TrainingSummary
    history: tuple[Event, ...]
    base_dev: tuple[Rated, ...]
    adapter_dev: tuple[Rated, ...]
    code_dev: tuple[Rated, ...]


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
    config = encoded.plan.config
    with GGUFFile(encoded.plan.base.path) as file:
        with ws.stage("train"), stop_after_step() as should_stop:
            soft = readout.soft_labels if readout else soft_labels(encoded.dataset, config)
            trained = _train(file, encoded, soft, ws, should_stop)
        with ws.stage("export"), ws.progress.whole.part("write"), _served_or_diverged(trained):
            summary, path = trained.summary, ws.checkpoints / outputs.MODEL
            keys = decision_of(encoded, encoded.frame, summary.family, trained.adapter_dev, trained.code_dev)
            metadata = {**encoded.plan.provenance, **keys.metadata}
            target = MergeTarget(path, file, trained.update, metadata, summary.threads)
            merged = merge(target, config, partial(_write, target, ws), partial(_check, encoded, trained, target, ws))
            by_file = merged.checked.served if config.engine == LLAMA_CPP else merged.checked.reread
            export = summarize_export(file, merged, by_file, encoded.test)
    words = merged.checked.reread.rated
    _require_gain_over_base(words, trained, encoded)
    branch = scored(encoded, keys, words, merged.checked.by_code)
    tuned = Tuned(path, by_file, summary, export, trained.history, encoded, branch)
    return tuned if tuned.scoring.by == "words" else replace(tuned, dev=_rate_dev(tuned, ws))


def _rate_dev(tuned: Tuned, ws: Workspace) -> Pass:
    """The validation records by the merged file as its labels are to be scored."""
    plan, dataset = tuned.encoded.plan, tuned.encoded.dataset
    opened = open_base(plan.base, rating_in_a_run(plan.config), context=tuned.encoded.context, file=tuned.file)
    title, examples = f"{TITLES['check']}: ratings by code", dataset.examples["dev"]
    with ws.stage("export"), ws.part("check"), closing(opened) as engine:
        return rate_shown(ws.progress, engine, examples, dataset.scale, title, scoring=tuned.scoring)


def _train(
    file: GGUFFile, encoded: EncodedDataset, soft: SoftLabels, ws: Workspace, should_stop: Callable[[], bool]
) -> _Trained:
    """Train and write the adapter. Float copies of the base are freed before the engine loads the file."""
    from ..model.load import load, place  # imports torch, which only tuning needs
    from ..train.checkpoint import CheckpointPlace
    from ..train.loop import Trainer, TrainingData

    config, rows, job = encoded.plan.config, encoded.rows, encoded.job
    data = TrainingData.of(encoded, soft)
    longest = max(row.length for part in rows.values() for row in part)
    with ws.part("load"):
        tunable = load(file, config, place(file, config), row_tokens=longest)
    load_seconds = ws.parts["load"]
    trainer = Trainer(
        tunable,
        data,
        config,
        checkpoints=CheckpointPlace(ws.checkpoints, encoded.plan.run_id, ws.resume),
        should_stop=should_stop,
    )
    if trainer.trunk_rows:
        shown = ws.progress.stage_if_needed(TITLES["load"], trainer.trunk_rows, unit="records")
        with ws.part("load"), shown as advance:
            trainer.read_trunk(advance)
    with ws.progress.stage(TITLES["train"], total=trainer.steps, done=trainer.step, unit="steps"):
        for event in trainer.run(job.training_seconds(ws.elapsed) if job else None):
            ws.progress.show(event)
            ws.tracking.event(event)
    result = trainer.result
    for part, kind in (("train", "step"), ("validate", "dev")):
        ws.parts[part] = sum(event.seconds for event in result.history if event.kind == kind)
    if result.best_step == 0:
        base = f"the {len(data.dev)} validation records over the base (macro-F1 {result.base_macro_f1:.3f})"
        raise failed(f"training gained nothing on {base}", result.history)
    lora, family, about = tunable.lora, tunable.model_config.family, encoded.plan.provenance
    adapter = ws.folder / outputs.ADAPTER
    write_adapter(adapter, architecture=family, alpha=lora.alpha, tensors=lora.pairs(), metadata=about)
    by_decoder = (result.base_log_RK, result.best_log_RK, result.best_code_log_RK)
    return _Trained(
        WeightUpdate(lora.pairs(), lora.scale),
        summarize_training(config, result, tunable, load_seconds, len(data.train) - data.rated),
        result.history,
        *(rated_rows(log_RK, data.dev, encoded.dataset.scale) for log_RK in by_decoder),
    )


@contextmanager
def _served_or_diverged(trained: _Trained) -> Iterator[None]:
    """Raise TrainingFailedError for an adapter that has diverged: without probabilities, or none that can be served."""
    if any(math.isnan(each.probabilities[0]) for each in trained.adapter_dev):
        raise failed("the trained adapter gives no probabilities", trained.history)
    try:
        yield
    except EngineError as error:
        if not rate_too_high(trained.history):
            raise
        raise failed(f"the tuned file cannot be served ({error})", trained.history) from error


def _write(target: MergeTarget, ws: Workspace, choices: Sequence[TypeChoice]) -> None:
    total = merged_bytes(target.base, choices) // MEGABYTE
    with ws.progress.stage(TITLES["write"], total=total, unit="MB") as stage:
        write_merged(target, choices, progress=lambda done, _: stage.advance(done // MEGABYTE - stage.done))


def _check(encoded: EncodedDataset, trained: _Trained, target: MergeTarget, ws: Workspace, attempt: int) -> CheckedFile:
    """Rate the validation records with the merged file, by our decoder and, a sample or all of them, by llama.cpp, and
    compare with the adapter.
    """
    plan, dataset, rows = encoded.plan, encoded.dataset, encoded.rows["dev"]
    config, examples = plan.config, dataset.examples["dev"]
    some = examples if config.engine == LLAMA_CPP else sample_of(examples, SERVED_SAMPLE, config.seed)
    title = TITLES["check"] + (" (attempt 2, at a higher precision)" if attempt > 1 else "")
    opened = partial(plan.base.open, context=encoded.context, threads=config.threads, file=target.path)
    with ws.part("check"), opened() as engine:
        served = rate_shown(ws.progress, engine, some, dataset.scale, title)
    with ws.part("check"), ws.progress.stage(f"{TITLES['check']}: by a second program"):
        reread, by_code = rate_validation(target.path, encoded)
    ids = {each.id for each in some}
    compared = [row for row in rows if row.id in ids]
    truth = ValidationTruth(
        [row.label for row in compared], groups_of([row.id for row in compared], dataset.split.groups)
    )
    adapter, reader = ([each for each in by if each.id in ids] for by in (trained.adapter_dev, reread.rated))
    agreement = check(adapter, served.rated, reader, truth, config)
    log.info("attempt %d: %s", attempt, agreement)
    return CheckedFile(served, reread, agreement, by_code)


def _require_gain_over_base(by_file: Sequence[Rated], trained: _Trained, encoded: EncodedDataset) -> None:
    """Raise TrainingFailedError unless the file is better than its base on the validation records, by one reader."""
    dataset, config = encoded.dataset, encoded.plan.config
    file, base = (dev_macro_f1(each, dataset, config) for each in (by_file, trained.base_dev))
    log.info("validation macro-F1: file %.4f, base %.4f", file, base)
    if file <= base:
        figures = f"{len(by_file)} validation records (macro-F1 {file:.3f} against {base:.3f})"
        raise failed(f"the tuned model is not better than its base on the {figures}", trained.history)
