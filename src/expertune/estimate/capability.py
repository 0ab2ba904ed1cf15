"""Check from the file's header, without torch, if a model can be tuned here and how much memory that takes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import Listed, Located, listed, locate
from ..engine.ollama.server import OllamaServer
from ..errors import EngineError, ExpertuneError, FineTuningNotSupportedError
from ..files import size_text
from ..gguf.read import GGUFFile
from ..machine import free_memory, multiplies_bf16
from ..model.arch import read_config
from ..model.config import ModelConfig
from ..model.memory import (
    MemoryEstimate,
    RowShape,
    bytes_on_gpu,
    estimate_memory,
    fits_cached,
    must_recompute,
    tokens_at_once,
)
from ..model.target_modules import first_adapted
from ..train.recipe import with_recipe

TRIAL_CONTEXT = 256  # tokens
REFERENCE = RowShape(prompt=220, answer=30, longest=250)  # default rows of an estimate
# Memory of usual computers and of single GPUs, in GB, and the share of it that a run finds free
COMPUTERS, GPUS, USABLE = (8, 16, 32, 64, 128, 256, 512, 1024), (8, 12, 16, 24, 32, 48, 80, 96, 141, 192), 0.9


@dataclass(frozen=True)
class TrainingThroughput:
    """Measured throughput of a model on this machine, in training steps and in validation (`look_tokens_per_second`).

    `trunk_seconds_per_token` is the time in the blocks without an adapter, once for each record.
    `block_seconds_per_token` and `block_look_seconds_per_token` are the parts of one adapted block in steps and in
    validation; `load_seconds` is the time to load the whole model.
    `precision` is "bf16" or "fp32", `base_memory` "cached" or "packed"; the other fields also say how it was computed.
    """

    tokens_per_second: float
    look_tokens_per_second: float
    trunk_seconds_per_token: float
    device: str
    precision: str
    threads: int
    base_memory: str
    recomputed: bool
    block_seconds_per_token: float = 0.0
    block_look_seconds_per_token: float = 0.0
    load_seconds: float = 0.0


@dataclass(frozen=True)
class ResourceEstimate:
    """Resources for training with the default settings: memory, and throughput if known."""

    memory: MemoryEstimate
    rate: TrainingThroughput | None = None


@dataclass(frozen=True)
class Capability:
    """Result of the check; `reason` says why a model cannot be tuned, `notes` are remarks on one that can.

    `parameters` counts the elements of all tensors, `quantisation` is the type of most of them; both are None if there
    is no readable file. `estimate` is None if the model cannot be tuned.
    """

    model: str
    tunable: bool
    reason: str
    path: Path | None = None
    family: str | None = None
    parameters: int | None = None
    quantisation: str | None = None
    estimate: ResourceEstimate | None = None
    notes: tuple[str, ...] = ()


def capability(model: str, server: OllamaServer | None = None) -> Capability:
    """Locate the model and check if it can be tuned on rows like the reference; never raises for one that cannot."""
    try:
        located = locate(model, server)
    except ExpertuneError as error:
        return Capability(model, False, str(error))
    return _of_file(model, located)


def capabilities(server: OllamaServer | None = None) -> list[tuple[Listed, Capability]]:
    """Check every model that Ollama has (see `listed`)."""
    return [(each, _of_listed(each)) for each in listed(server)]


def estimate(file: GGUFFile, shape: RowShape, rate: TrainingThroughput | None = None) -> ResourceEstimate:
    """Estimate the resources for the default settings, resolved as when `rate` was measured, else as now.

    Raises FineTuningNotSupportedError if there is too little memory even with quantized weights.
    """
    spec = read_config(file)
    if rate is not None:
        cached, recomputed = rate.base_memory == "cached", rate.recomputed
        item = 2 if rate.precision == "bf16" else 4
        return ResourceEstimate(needed_memory(file, spec, shape, item, cached, recomputed, rate.device), rate)
    item, free = 2 if multiplies_bf16() else 4, free_memory()
    needed = placed(file, shape, item, free)
    if needed.peak > free:
        raise FineTuningNotSupportedError(
            f"needs {size_text(needed.peak)} of memory to be tuned and {size_text(free)} are free; close other "
            f"programs, use {machine_for(file, shape)}, or choose a smaller model or a smaller quantisation of it"
        )
    return ResourceEstimate(needed)


def placed(file: GGUFFile, shape: RowShape, item: int, free: int, device: str = "cpu") -> MemoryEstimate:
    """Memory with the default settings as a run would place the model where so much is free, the least if none fits."""
    spec = read_config(file)
    first = first_adapted(spec, with_recipe(file, Config()).layers)
    cached, recomputed = fits_cached(file, item, free), must_recompute(spec, shape.longest, item, free, first=first)
    needed = needed_memory(file, spec, shape, item, cached, recomputed, device)
    return needed if needed.peak <= free else needed_memory(file, spec, shape, item, False, True, device)


def machine_for(file: GGUFFile, shape: RowShape = REFERENCE) -> str:
    """Name the smallest computer on which the model can be tuned, and the smallest GPU that holds its weights in bf16.

    Several GPUs have the same limit: each holds the whole model.
    """
    computer = next((size for size in COMPUTERS if placed(file, shape, 4, _free(size)).peak <= _free(size)), None)
    on_gpu = bytes_on_gpu(file, needed_memory(file, read_config(file), shape, 2, True, False, "cuda"), 2)
    gpu = next((size for size in GPUS if on_gpu <= _free(size)), None)
    computer_text = f"a computer with {computer or f'more than {COMPUTERS[-1]}'} GB of memory"
    return (
        computer_text if gpu is None else f"{computer_text} (or, with --weight-cache dequantized, a GPU with {gpu} GB)"
    )


def _free(size: int) -> int:
    """Bytes that a run finds free in a memory of so many GB."""
    return round(USABLE * size * 1e9)


def needed_memory(
    file: GGUFFile, spec: ModelConfig, shape: RowShape, item: int, cached: bool, recomputed: bool, device: str = "cpu"
) -> MemoryEstimate:
    """Memory with the default settings, `item` bytes a number: with unpacked weights kept (`cached`), or blocks
    `recomputed` in the backward pass."""
    config = with_recipe(file, Config())
    first = first_adapted(spec, config.layers)
    return estimate_memory(
        file,
        spec,
        shape,
        item=item,
        rank=config.rank,
        batch=config.batch_size,
        at_once=tokens_at_once(device, spec, first),
        cached=cached,
        recomputed=recomputed,
        first=first,
    )


def tried(capability: Capability) -> Capability:
    """The capability after llama.cpp ran the model and wrote a conversation with its chat template (takes a second)."""
    if not capability.tunable or capability.path is None:
        return capability
    try:
        with LlamaCppEngine(capability.path, context=TRIAL_CONTEXT) as engine:
            engine.turn_end()
    except EngineError as error:
        return replace(capability, tunable=False, reason=str(error), estimate=None)
    return capability


def _of_listed(model: Listed) -> Capability:
    if model.located is None:
        return Capability(model.name, False, model.reason or "its file is not available")
    return _of_file(model.name, model.located)


def _of_file(model: str, located: Located) -> Capability:
    parameters, quantisation, family = None, None, None
    try:
        with GGUFFile(located.path) as file:
            parameters, quantisation = _size(file)
            family = str(file.metadata("general.architecture", "")) or None
            needed = estimate(file, REFERENCE)
    except ExpertuneError as error:
        return Capability(model, False, str(error), located.path, family, parameters, quantisation)
    return Capability(
        model, True, "can be tuned", located.path, family, parameters, quantisation, needed, located.notes
    )


def _size(file: GGUFFile) -> tuple[int, str | None]:
    """Number of elements in all tensors, and the name of the type of most of them."""
    counts: Counter[str] = Counter()
    for info in file.tensors.values():
        counts[info.type.name] += math.prod(info.shape)
    return counts.total(), max(counts, key=lambda name: counts[name], default=None)
