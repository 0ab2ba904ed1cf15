"""Tune the base on the training records: train the adapter, merge it into the base, require a gain in macro-F1."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__, outputs
from ..errors import EngineError, FineTuningNotSupportedError, TrainingFailedError
from ..evaluate.judgement import dev_macro_f1, rate_shown
from ..export.merged import MergeTarget, merge, merged_bytes, write_merged
from ..export.quant_types import TypeChoice, WeightUpdate
from ..export.summary import summarize_export
from ..gguf.read import GGUFFile
from ..gguf.write import write_adapter
from ..predict.score import Pass
from ..train.advice import advice, rate_too_high
from ..train.interrupt import stop_after_step
from ..train.summary import TrainingSummary, summarize_training
from .state import EncodedDataset, NotTuned, RunRequest, Tuned, as_value
from .workspace import Workspace

log = logging.getLogger("expertune")

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Trained:
    """The trained adapter as matrices, and the record of its training."""

    update: WeightUpdate
    threads: int
    summary: TrainingSummary
    history: tuple[dict[str, Any], ...]


def tune(encoded: EncodedDataset | NotTuned, ws: Workspace) -> Tuned | NotTuned:
    """Train and merge; NotTuned if the file is not better than its base on validation records. Raises Interrupted."""
    return encoded if isinstance(encoded, NotTuned) else as_value(lambda: _tune(encoded, ws))


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


def _tune(encoded: EncodedDataset, ws: Workspace) -> Tuned:
    plan = encoded.plan
    with GGUFFile(plan.base.path) as file:
        with ws.stage("train"), stop_after_step() as should_stop:
            trained = _train(file, encoded, ws, should_stop)
        with ws.stage("export"):
            adapter_dev = _rate_adapter(encoded, trained, ws)
            target = MergeTarget(
                ws.checkpoints / outputs.MODEL, file, trained.update, _provenance(encoded), trained.threads
            )
            merged = merge(target, plan.config, adapter_dev, partial(_write_and_rate, encoded, target, ws))
            export = summarize_export(file, merged, encoded.dev)
    tuned = Tuned(merged.path, merged.judged, trained.summary, export, trained.history, encoded)
    _require_gain_over_base(tuned)
    return tuned


def _train(file: GGUFFile, encoded: EncodedDataset, ws: Workspace, should_stop: Callable[[], bool]) -> _Trained:
    """Train and write the adapter. Float copies of the base are freed before the engine loads the file."""
    from ..model.load import load, place  # imports torch, which only tuning needs
    from ..train.checkpoint import CheckpointPlace
    from ..train.loop import Trainer, TrainingData

    config = encoded.plan.config
    placement = place(file, config)
    longest = max(row.length for rows in encoded.rows.values() for row in rows)
    started = time.perf_counter()
    tunable = load(file, config, placement, row_tokens=longest)
    load_seconds = round(time.perf_counter() - started, 3)
    trainer = Trainer(
        tunable,
        TrainingData(encoded.rows["train"], encoded.rows["dev"], encoded.candidates),
        config,
        checkpoints=CheckpointPlace(ws.checkpoints, encoded.plan.run_id, ws.resume),
        should_stop=should_stop,
    )
    if trainer.trunk_rows:
        title = "Reading the records once through the layers that stay as they are"
        with ws.progress.stage(title, total=trainer.trunk_rows, unit="records") as stage:
            trainer.read_trunk(stage.advance)
    with ws.progress.stage("Training", total=trainer.steps, done=trainer.step, unit="steps"):
        for event in trainer.run():
            ws.progress.show(event)
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
    summary = summarize_training(config, result, tunable, load_seconds)
    return _Trained(WeightUpdate(lora.pairs(), lora.scale), placement.threads, summary, result.history)


def _provenance(encoded: EncodedDataset) -> dict[str, str]:
    """Metadata of the written GGUF files."""
    plan = encoded.plan
    return {
        "general.name": f"{plan.base.name} tuned by Expertune",
        "expertune.version": __version__,
        "expertune.base.sha256": plan.base.sha256,
        "expertune.run": plan.run_id,
    }


def _write_and_rate(
    encoded: EncodedDataset, target: MergeTarget, ws: Workspace, choices: Sequence[TypeChoice], attempt: int
) -> Pass:
    """Write the merged file with these types and rate the validation records with it."""
    total = merged_bytes(target.base, choices) // MEGABYTE
    with ws.progress.stage("Writing the model file", total=total, unit="MB") as stage:
        write_merged(target, choices, progress=lambda done, _: stage.advance(done // MEGABYTE - stage.done))
    number = f" (attempt {attempt})" if attempt > 1 else ""
    return _rate_dev(encoded, ws, f"Checking the saved file{number}", file=target.path)


def _rate_adapter(encoded: EncodedDataset, trained: _Trained, ws: Workspace) -> Pass:
    """Rate the validation records with base and adapter. Raises TrainingFailedError if the adapter has diverged."""
    adapter = ws.folder / outputs.ADAPTER
    try:
        return ws.once(
            "adapter-dev",
            encoded.plan.run_id,
            lambda: _rate_dev(encoded, ws, "Trained adapter: validation records", adapter=adapter),
        )
    except EngineError as error:
        if not rate_too_high(trained.history):
            raise
        raise TrainingFailedError(
            f"the trained adapter cannot be served ({error}); {advice(trained.history)}"
        ) from error


def _rate_dev(
    encoded: EncodedDataset, ws: Workspace, title: str, *, file: Path | None = None, adapter: Path | None = None
) -> Pass:
    plan, dataset = encoded.plan, encoded.dataset
    opened = plan.base.open(context=encoded.context, threads=plan.config.threads, file=file, adapter=adapter)
    with opened as engine:
        return rate_shown(ws.progress, engine, dataset.examples["dev"], dataset.scale, title)


def _require_gain_over_base(tuned: Tuned) -> None:
    """Raise TrainingFailedError unless the file is better than its base on the validation records."""
    encoded = tuned.encoded
    file, base = (dev_macro_f1(each, encoded.dataset, encoded.plan.config) for each in (tuned.dev, encoded.dev))
    log.info("validation macro-F1: file %.4f, base %.4f", file, base)
    if file <= base:
        raise TrainingFailedError(
            f"the tuned model is not better than its base on the {len(tuned.dev.rated)} validation records "
            f"(macro-F1 {file:.3f} against {base:.3f}); {advice(tuned.history)}"
        )
