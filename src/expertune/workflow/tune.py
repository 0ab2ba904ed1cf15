"""Tune the base on the training rows and export the file, each stage taking the records of the one before."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__, outputs
from ..config import Config
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.render import OllamaRenderer
from ..errors import EngineError, FineTuningNotSupportedError, TrainingFailedError
from ..evaluate.judgement import rate_shown
from ..export.merged import MergedModel, MergeTarget, merge, merged_bytes, tensor_bytes, write_merged
from ..export.quant_types import TypeChoice, WeightUpdate
from ..gguf.read import GGUFFile
from ..gguf.write import write_adapter
from ..model.load import Placement, Tunable, load, place
from ..predict.score import Pass
from ..rate.artifact import ANSWER_ROOM
from ..ratings.dataset import Dataset
from ..train.checkpoint import CheckpointPlace
from ..train.encode import Row, candidates, check_lengths, encode, token_weights
from ..train.loop import Trainer, TrainingData, TrainingResult
from .advice import advice, rate_too_high
from .state import EncodedDataset, Job, Tuned

MEGABYTE = 1_000_000


def read_base(job: Job, prepared: Dataset) -> EncodedDataset:
    """Tokenise every row with the serving engine; let the base rate dev and test. Raises DatasetError for long rows."""
    context = job.config.max_tokens + ANSWER_ROOM
    with job.clock.stage("read"), job.serve(job.base.path, context=context) as engine:
        limit = min(job.config.max_tokens, engine.context)
        rows, prepared = _encode(job, engine, prepared, limit)
        first = prepared.examples["train"][0]
        if job.base.renderer is not None:
            _settle_with_ollama(job.base.renderer, engine, prepared)

        def rate(part: str) -> Pass:
            return rate_shown(job.progress, engine, prepared.examples[part], prepared.scale, f"Base, {part} rows")

        return EncodedDataset(
            prepared,
            rows,
            candidates(engine, first, prepared.scale),
            engine.context,
            job.memory.passed("base-dev", lambda: rate("dev")),
            job.memory.passed("base-test", lambda: rate("test")),
            tuple(engine.notes),
            engine.describe(),
        )


def _settle_with_ollama(renderer: OllamaRenderer, engine: LlamaCppEngine, prepared: Dataset) -> None:
    """Its tokens are ours; every prompt is known; then the model leaves the server's memory to the training.

    Raises FineTuningNotSupportedError where the server reads a prompt as other tokens than the file's tokenizer.
    """
    prompt = engine.render(prepared.examples["train"][0].messages)
    there, here = renderer.count_tokens(prompt), engine.count_tokens(prompt)
    if there != here:
        raise FineTuningNotSupportedError(
            f"{renderer.model}: Ollama reads a prompt as {there} tokens where the file's own tokenizer makes {here}; "
            "a tuned file would be served other tokens than it was tuned on"
        )
    renderer.server.unload(renderer.model)


def _encode(
    job: Job, engine: LlamaCppEngine, prepared: Dataset, limit: int
) -> tuple[dict[str, tuple[Row, ...]], Dataset]:
    examples = [example for part in prepared.examples.values() for example in part]
    with job.progress.stage("Tokenising", total=len(examples), unit="rows") as stage:
        rows = encode(engine, examples, prepared.scale, token_weights(job.config), on_row=stage.advance)
    fitting = {row.id: row for row in check_lengths(rows, limit, drop=job.config.long_rows == "drop")}
    prepared = prepared.without(frozenset(example.id for example in examples if example.id not in fitting))
    empty = [part for part, left in prepared.examples.items() if not left]
    if empty:
        raise TrainingFailedError(f"no rows are left in {' and '.join(empty)}; give more rows or raise --max-tokens")
    return {
        part: tuple(fitting[example.id] for example in part_examples)
        for part, part_examples in prepared.examples.items()
    }, prepared


def tune(job: Job, read: EncodedDataset, should_stop: Callable[[], bool]) -> Tuned:
    """Train, write the adapter, merge, and hold the file to the adapter. Raises TrainingFailedError and Interrupted."""
    with GGUFFile(job.base.path) as file:
        with job.clock.stage("train"):
            tunable, training, history = _train(job, file, read, should_stop)
        write_adapter(
            job.folder / outputs.ADAPTER,
            architecture=tunable.model_config.family,
            alpha=tunable.lora.alpha,
            tensors=tunable.lora.pairs(),
            metadata=_provenance(job),
        )
        update, threads = WeightUpdate(tunable.lora.pairs(), tunable.lora.scale), tunable.placement.threads
        del tunable  # the float copies of the base go before the engine loads the file
        with job.clock.stage("export"):
            adapter_pass = _rate_adapter(job, read, history)
            path = job.folder / outputs.CHECKPOINTS / outputs.MODEL
            target = MergeTarget(path, file, update, _provenance(job), threads)
            merged = merge(target, job.config, adapter_pass, functools.partial(_write_and_rate, job, read, target))
            export = _export_facts(file, read, merged)
    return Tuned(merged.path, merged.judged, training, export, history)


def _train(
    job: Job, file: GGUFFile, read: EncodedDataset, should_stop: Callable[[], bool]
) -> tuple[Tunable, dict[str, Any], tuple[dict[str, Any], ...]]:
    placement = place(file, job.config)
    longest = max(row.length for rows in read.rows.values() for row in rows)
    started = time.perf_counter()
    tunable = load(file, job.config, placement, row_tokens=longest)
    load_seconds = round(time.perf_counter() - started, 3)
    trainer = Trainer(
        tunable,
        TrainingData(read.rows["train"], read.rows["dev"], read.candidates),
        job.config,
        checkpoints=CheckpointPlace(job.folder / outputs.CHECKPOINTS, job.run_id, job.resume),
        should_stop=should_stop,
    )
    with job.progress.stage("Training", total=trainer.steps, done=trainer.step, unit="steps"):
        for event in trainer.run():
            job.progress.show(event)
    result = trainer.result
    if result.best_step == 0:
        raise TrainingFailedError(
            f"training gained nothing on the {len(read.rows['dev'])} dev rows over the base "
            f"(macro-F1 {result.base_macro_f1:.3f}); {advice(result.history)}"
        )
    return tunable, _training_facts(job.config, result, placement, load_seconds, tunable), result.history


def _training_facts(
    config: Config, result: TrainingResult, placement: Placement, load_seconds: float, tunable: Tunable
) -> dict[str, Any]:
    steps = [event for event in result.history if event["kind"] == "step"]
    seconds = sum(event["seconds"] for event in steps)
    return {
        "approach": "lora_on_gguf",
        "family": tunable.model_config.family,
        "layers_touched": len(tunable.lora.layers),
        "trained_numbers": int(tunable.lora.values_P.numel()),
        **placement.describe(),
        "load_seconds": load_seconds,
        "learning_rate": config.learning_rate,
        "epochs": config.epochs,
        "steps": result.steps,
        "best_step": result.best_step,
        "class_weighting": config.class_weight,
        "dev_macro_f1": result.macro_f1,
        "dev_loss": result.loss,
        "base_dev_macro_f1": result.base_macro_f1,
        "tokens_per_second": round(sum(event["tokens"] for event in steps) / seconds, 1) if seconds else None,
        "last_loss": steps[-1]["loss"] if steps else None,
    }


def _provenance(job: Job) -> dict[str, str]:
    return {
        "general.name": f"{job.base.name} tuned by Expertune",
        "expertune.version": __version__,
        "expertune.base.sha256": job.base.sha256,
        "expertune.run": job.run_id,
    }


def _rate_adapter(job: Job, read: EncodedDataset, history: tuple[dict[str, Any], ...]) -> Pass:
    """The dev rows by the base with the adapter. Raises TrainingFailedError where it diverged too far to be served."""
    try:
        return job.memory.passed("adapter-dev", lambda: _rate_dev(job, read, job.base.path, with_adapter=True))
    except EngineError as error:
        if not rate_too_high(history):
            raise
        raise TrainingFailedError(f"what was trained cannot be served ({error}); {advice(history)}") from error


def _rate_dev(job: Job, read: EncodedDataset, path: Path, *, with_adapter: bool = False) -> Pass:
    adapter = job.folder / outputs.ADAPTER if with_adapter else None
    title = "Adapter, dev rows" if with_adapter else "Finished file, dev rows"
    with job.serve(path, adapter=adapter, context=read.context) as engine:
        return rate_shown(job.progress, engine, read.prepared.examples["dev"], read.prepared.scale, title)


def _write_and_rate(job: Job, read: EncodedDataset, target: MergeTarget, choices: Sequence[TypeChoice]) -> Pass:
    """Write the merged file, showing its megabytes, and let it rate the dev rows."""
    total = merged_bytes(target.base, choices) // MEGABYTE
    with job.progress.stage("Writing the model file", total=total, unit="MB") as stage:
        write_merged(target, choices, progress=lambda done, _: stage.advance(done // MEGABYTE - stage.done))
    return _rate_dev(job, read, target.path)


def _export_facts(file: GGUFFile, read: EncodedDataset, merged: MergedModel) -> dict[str, Any]:
    by_type: dict[str, list[TypeChoice]] = {}
    for choice in merged.choices:
        by_type.setdefault(choice.type.name, []).append(choice)
    return {
        "types": [
            {
                "type": name,
                "tensors": len(choices),
                "bytes": sum(tensor_bytes(file, choice) for choice in choices),
                "kept": min(choice.kept for choice in choices),
            }
            for name, choices in sorted(by_type.items())
        ],
        "base_types": dict(sorted(Counter(choice.base_type.name for choice in merged.choices).items())),
        "bytes": merged.path.stat().st_size,
        "base_bytes": file.path.stat().st_size,
        "agreement": merged.agreement.labels,
        "probability_gap": merged.agreement.probability_gap,
        "agreement_passed": merged.agreement.passed,
        "agreement_rows": merged.agreement.rows,
        "rounds": [asdict(each) for each in merged.rounds],
        "rows_per_second": merged.judged.rows_per_second,
        "base_rows_per_second": read.dev.rows_per_second,
        "prompt_tokens_per_second": merged.judged.prompt_tokens / merged.judged.seconds,
        "base_prompt_tokens_per_second": read.dev.prompt_tokens / read.dev.seconds,
    }
