"""Tune the base on the training records: train the adapter, merge it into the base, require a gain in macro-F1."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import __version__, outputs
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
from ..modelset.tfidf_classifier import fit_tfidf, out_of_fold, predict_tfidf
from ..predict.score import Pass, Rated, sample_of
from ..torch_engine import LLAMA_CPP, open_base, rating_in_a_run
from ..train.advice import advice, rate_too_high
from ..train.class_balance import SoftLabels
from ..train.encode import Row, unrated_row
from ..train.events import Event
from ..train.interrupt import stop_after_step
from ..train.summary import TrainingSummary, summarize_training
from .code_branch import decision_of, scored
from .readout import Readout
from .state import EncodedDataset, NotTuned, RunRequest, Tuned, as_value
from .workspace import Workspace

if TYPE_CHECKING:
    from ..train.loop import Trainer
    from ..train.ranks import Ranks

log = logging.getLogger("expertune")

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Trained:
    """The trained adapter as matrices, and the record of its training.

    `base_dev` and `adapter_dev` are the validation records by our decoder, without and with the adapter; `code_dev`
    those with the adapter by the codes of the labels, empty without a code branch.
    """

    update: WeightUpdate
    threads: int
    summary: TrainingSummary
    history: tuple[Event, ...]
    base_dev: tuple[Rated, ...]
    adapter_dev: tuple[Rated, ...]
    code_dev: tuple[Rated, ...]


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

    plan = encoded.plan
    with GGUFFile(plan.base.path) as file:
        with ws.stage("train"), training_ranks(ws.nproc) as ranks, stop_after_step() as should_stop:
            trained = _train(file, encoded, soft_labels(encoded, readout), ws, should_stop, ranks)
        with ws.stage("export"), ws.progress.whole.part("write"), _served_or_diverged(trained):
            keys = decision_of(encoded, trained.summary.family, trained.adapter_dev, trained.code_dev)
            metadata = {**_provenance(encoded), **keys.metadata}
            target = MergeTarget(ws.checkpoints / outputs.MODEL, file, trained.update, metadata, trained.threads)
            merged = merge(
                target, plan.config, partial(_write, target, ws), partial(_check, encoded, trained, target, ws)
            )
            by_file = merged.checked.served if plan.config.engine == LLAMA_CPP else merged.checked.reread
            export = summarize_export(file, merged, by_file, encoded.test)
    words = merged.checked.reread.rated
    _require_gain_over_base(words, trained, encoded)
    branch = scored(encoded, keys, words, merged.checked.by_code)
    tuned = Tuned(merged.path, by_file, trained.summary, export, trained.history, encoded, branch)
    return tuned if tuned.scoring.by == "words" else replace(tuned, dev=_rate_dev(tuned, ws))


def _rate_dev(tuned: Tuned, ws: Workspace) -> Pass:
    """The validation records by the merged file as its labels are to be scored."""
    plan, dataset = tuned.encoded.plan, tuned.encoded.dataset
    opened = open_base(plan.base, rating_in_a_run(plan.config), context=tuned.encoded.context, file=tuned.file)
    title, examples = f"{TITLES['check']}: ratings by code", dataset.examples["dev"]
    with ws.stage("export"), ws.part("check"), closing(opened) as engine:
        return rate_shown(ws.progress, engine, examples, dataset.scale, title, scoring=tuned.scoring)


def soft_labels(encoded: EncodedDataset, readout: Readout | None) -> SoftLabels:
    """Probabilities of the training records, out of fold, and of those without a rating: by the readout, or by TF-IDF
    where there is none."""
    dataset, config = encoded.dataset, encoded.plan.config
    if readout is not None:
        return readout.soft_labels
    train, soft = dataset.split.train, {}
    if config.soft_label_weight:
        found = out_of_fold(train, dataset.scale, dataset.split.groups, seed=config.seed)
        soft |= {row.id: shares for row, shares in zip(train, found, strict=False)}
    others = dataset.unlabelled.records if dataset.unlabelled else ()
    tables = fit_tfidf(train, dataset.scale, seed=config.seed) if others else None
    if tables is not None:
        found = predict_tfidf(tables, [each.prompt for each in others], dataset.scale.labels)
        soft |= {each.id: shares for each, shares in zip(others, found, strict=True)}
    return soft


def unrated_rows(encoded: EncodedDataset, soft: SoftLabels) -> tuple[Row, ...]:
    """The rows of the records without a rating, each with its most probable label; none without soft labels."""
    return tuple(
        unrated_row(row.id, row.prompt, encoded.candidates, max(range(len(shares)), key=shares.__getitem__))
        for row in encoded.rows["unlabelled"]
        if (shares := soft.get(row.id))
    )


def _train(
    file: GGUFFile,
    encoded: EncodedDataset,
    soft: SoftLabels,
    ws: Workspace,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> _Trained:
    """Train and write the adapter. Float copies of the base are freed before the engine loads the file."""
    from ..model.load import load, place  # imports torch, which only tuning needs
    from ..train.checkpoint import CheckpointPlace
    from ..train.distributed import Job, begin
    from ..train.loop import Trainer, TrainingData

    plan, config, unrated = encoded.plan, encoded.plan.config, unrated_rows(encoded, soft)
    placement = place(file, config)
    longest = max(row.length for rows in encoded.rows.values() for row in rows)
    data = TrainingData((*encoded.rows["train"], *unrated), encoded.rows["dev"], encoded.candidates, soft)
    checkpoints = CheckpointPlace(ws.checkpoints, plan.run_id, ws.resume)
    ranks = begin(ranks, Job(plan.base.path.absolute(), plan.base.sha256, config, data, longest, checkpoints))
    with ws.part("load"):
        tunable = load(file, config, placement, row_tokens=longest)
    load_seconds = ws.parts["load"]
    trainer = Trainer(tunable, data, config, checkpoints=checkpoints, should_stop=should_stop, ranks=ranks)
    _run(trainer, encoded, ws)
    result = trainer.result
    if result.best_step == 0:
        raise TrainingFailedError(
            f"training gained nothing on the {len(encoded.rows['dev'])} validation records over the base "
            f"(macro-F1 {result.base_macro_f1:.3f}); {advice(result.history)}"
        )
    lora = tunable.lora
    write_adapter(
        ws.folder / outputs.ADAPTER,
        architecture=tunable.model_config.family,
        alpha=lora.alpha,
        tensors=lora.pairs(),
        metadata=_provenance(encoded),
    )
    summary = summarize_training(config, result, tunable, load_seconds, len(unrated))
    return _Trained(
        WeightUpdate(lora.pairs(), lora.scale),
        placement.threads,
        summary,
        result.history,
        _rated(result.base_log_RK, encoded),
        _rated(result.best_log_RK, encoded),
        _rated(result.best_code_log_RK, encoded),
    )


def _run(trainer: Trainer, encoded: EncodedDataset, ws: Workspace) -> None:
    """Train to the end, and keep the seconds of the parts."""
    if trainer.trunk_rows:
        shown = ws.progress.stage_if_needed(TITLES["load"], trainer.trunk_rows, unit="records")
        with ws.part("load"), shown as advance:
            trainer.read_trunk(advance)
    with ws.progress.stage(TITLES["train"], total=trainer.steps, done=trainer.step, unit="steps"):
        job = encoded.plan.job
        for event in trainer.run(job.training_seconds(ws.elapsed) if job else None):
            ws.progress.show(event)
            ws.tracking.event(event)
    for part, kind in (("train", "step"), ("validate", "dev")):
        ws.parts[part] = sum(event.seconds for event in trainer.result.history if event.kind == kind)


def _rated(log_RK: Any, encoded: EncodedDataset) -> tuple[Rated, ...]:
    """The validation records with the label probabilities of our decoder; `log_RK` is a tensor or None."""
    if log_RK is None:
        return ()
    examples, scale, share_RK = encoded.dataset.examples["dev"], encoded.dataset.scale, log_RK.exp().tolist()
    return tuple(Rated.of(each.id, shares, scale) for each, shares in zip(examples, share_RK, strict=True))


def _provenance(encoded: EncodedDataset) -> dict[str, str]:
    plan = encoded.plan
    return {
        "general.name": f"{plan.base.name} tuned by Expertune",
        "expertune.version": __version__,
        "expertune.base.sha256": plan.base.sha256,
        "expertune.run": plan.run_id,
    }


@contextmanager
def _served_or_diverged(trained: _Trained) -> Iterator[None]:
    """Raise TrainingFailedError for an adapter that has diverged: without probabilities, or none that can be served."""
    if any(math.isnan(each.probabilities[0]) for each in trained.adapter_dev):
        raise TrainingFailedError(f"the trained adapter gives no probabilities; {advice(trained.history)}")
    try:
        yield
    except EngineError as error:
        if not rate_too_high(trained.history):
            raise
        raise TrainingFailedError(f"the tuned file cannot be served ({error}); {advice(trained.history)}") from error


def _write(target: MergeTarget, ws: Workspace, choices: Sequence[TypeChoice]) -> None:
    total = merged_bytes(target.base, choices) // MEGABYTE
    with ws.progress.stage(TITLES["write"], total=total, unit="MB") as stage:
        write_merged(target, choices, progress=lambda done, _: stage.advance(done // MEGABYTE - stage.done))


def _check(encoded: EncodedDataset, trained: _Trained, target: MergeTarget, ws: Workspace, attempt: int) -> CheckedFile:
    """Rate the validation records with the merged file, by our decoder and, a sample or all of them, by llama.cpp, and
    compare with the adapter.
    """
    plan, dataset = encoded.plan, encoded.dataset
    examples = dataset.examples["dev"]
    if plan.config.engine != LLAMA_CPP:
        examples = sample_of(examples, SERVED_SAMPLE, plan.config.seed)
    title = TITLES["check"] + (" (attempt 2, at a higher precision)" if attempt > 1 else "")
    with (
        ws.part("check"),
        plan.base.open(context=encoded.context, threads=plan.config.threads, file=target.path) as engine,
    ):
        served = rate_shown(ws.progress, engine, examples, dataset.scale, title)
    with ws.part("check"), ws.progress.stage(f"{TITLES['check']}: by a second program"):
        reread, by_code = _reread(encoded, target)
    at = [at for at, row in enumerate(encoded.rows["dev"]) if row.id in {each.id for each in examples}]
    rows = [encoded.rows["dev"][each] for each in at]
    truth = ValidationTruth([row.label for row in rows], groups_of([row.id for row in rows], dataset.split.groups))
    by_adapter = [trained.adapter_dev[each] for each in at]
    agreement = check(by_adapter, served.rated, [reread.rated[each] for each in at], truth, plan.config)
    log.info("attempt %d: %s", attempt, agreement)
    return CheckedFile(served, reread, agreement, by_code)


def _reread(encoded: EncodedDataset, target: MergeTarget) -> tuple[Pass, tuple[Rated, ...]]:
    """The validation records by the merged file in our decoder, by words and by codes; its adapter changes nothing."""
    from ..model.load import load, place
    from ..train.batches import rows_of_evaluation
    from ..train.evaluate import evaluate

    config = encoded.plan.config
    with GGUFFile(target.path) as file:
        tunable = load(file, config, place(file, config))
        start = time.perf_counter()
        found = evaluate(tunable, encoded.rows["dev"], encoded.candidates, batch_size=rows_of_evaluation(config))
        seconds = time.perf_counter() - start
    rated = _rated(found.log_probabilities_RK, encoded)
    tokens = sum(len(row.prompt) for row in encoded.rows["dev"])
    return Pass(rated, seconds, len(rated) / seconds, tokens), _rated(found.code_log_RK, encoded)


def _require_gain_over_base(by_file: Sequence[Rated], trained: _Trained, encoded: EncodedDataset) -> None:
    """Raise TrainingFailedError unless the file is better than its base on the validation records, by one reader."""
    dataset, config = encoded.dataset, encoded.plan.config
    file, base = (dev_macro_f1(each, dataset, config) for each in (by_file, trained.base_dev))
    log.info("validation macro-F1: file %.4f, base %.4f", file, base)
    if file <= base:
        raise TrainingFailedError(
            f"the tuned model is not better than its base on the {len(by_file)} validation records "
            f"(macro-F1 {file:.3f} against {base:.3f}); {advice(trained.history)}"
        )
