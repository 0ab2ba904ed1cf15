"""Load a GGUF as a Decoder with a fresh adapter."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..config import Config, with_changes
from ..errors import FineTuningNotSupportedError
from ..gguf.read import GGUFFile
from ..machine import free_memory as machine_memory
from ..machine import local_processes, multiplies_bf16, usable_cores
from .arch import read_config
from .build import adapted_layers, build
from .config import ModelConfig
from .decoder import Decoder
from .lora import LoraWeights
from .memory import fits_cached, must_recompute
from .target_modules import first_adapted
from .weights import Scratch, Storage

# Least speed-up of the matrix multiplications that makes bf16 pay: everything between them only loses (docs/LOG.md)
WORTH_BF16 = 1.5


@dataclass(frozen=True)
class Placement:
    """Device, dtype and memory mode of a model, resolved from the configuration and the machine.

    `cached` keeps dequantised copies of the base's weights; otherwise they are dequantised on each use.
    """

    device: torch.device
    dtype: torch.dtype
    cached: bool
    threads: int

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> dict[str, Any]:
        return {
            "device": str(self.device),
            "precision": self.precision,
            "base_memory": "cached" if self.cached else "packed",
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Tunable:
    """A base with its decoder and adapter, ready to train."""

    model_config: ModelConfig
    decoder: Decoder
    lora: LoraWeights
    placement: Placement


def resolve(file: GGUFFile, config: Config) -> Config:
    """Replace "auto" for device, precision and threads by what suits this machine and model.

    They decide the last bits of the adapter, so a resumed or repeated run takes them from the first one.
    """
    threads = config.threads or usable_cores()
    torch.set_num_threads(threads)
    device = _device(config.device)
    precision = config.compute_dtype if config.compute_dtype != "auto" else _precision(file, device)
    return with_changes(config, device=device.type, compute_dtype=precision, threads=threads)


def place(file: GGUFFile, config: Config) -> Placement:
    """Choose device, dtype and memory mode; sets torch's thread count."""
    config = resolve(file, config)
    device = _device(config.device)
    dtype = torch.bfloat16 if config.compute_dtype == "bf16" else torch.float32
    cached = config.weight_cache == "dequantized"
    if config.weight_cache == "auto":
        cached = fits_cached(file, dtype.itemsize, free_memory(device))
    return Placement(device, dtype, cached, torch.get_num_threads())  # which resolve has set


def load(
    file: GGUFFile, config: Config, placement: Placement, *, row_tokens: int = 0, blocks: int | None = None
) -> Tunable:
    """Build the decoder over the file's blocks. `row_tokens`: longest row, to decide on recomputing activations.

    With `blocks` only the first so many are built, each with an adapter, all else as for the whole model: to measure
    their speed.
    Raises FineTuningNotSupportedError for an unsupported architecture, ModelFileError for missing or malformed tensors.
    """
    model_config = read_config(file)
    free, first = free_memory(placement.device), first_adapted(model_config, config.layers)
    recompute = must_recompute(model_config, row_tokens, placement.dtype.itemsize, free, first=first)
    if blocks is not None:
        model_config, first = replace(model_config, layers=model_config.layers[:blocks]), 0
    lora = LoraWeights(
        adapted_layers(file, model_config, config.target_modules, first),
        rank=config.rank,
        alpha=config.alpha,
        seed=config.seed,
        device=placement.device,
        dtype=placement.dtype,
    )
    scratch = None if placement.cached else Scratch()
    storage = Storage(placement.dtype, placement.device, placement.threads, scratch)
    decoder = build(file, model_config, lora, storage, first_adapted=first, recompute=recompute)
    if placement.cached:
        file.release()
    return Tunable(model_config, decoder, lora, placement)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[wanted]:
        raise FineTuningNotSupportedError(
            f"--device {wanted}: not available on this machine or in this torch; use --device auto"
        )
    return torch.device(wanted)


def _precision(file: GGUFFile, device: torch.device) -> str:
    """Choose the faster of bf16 and float32; on a CPU by timing both on matrices of the model's own size."""
    if device.type != "cpu":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if multiplies_bf16() is False:
        return "fp32"  # without bf16 instructions the timing would only take long
    shape = file.tensors["blk.0.ffn_up.weight"].shape if "blk.0.ffn_up.weight" in file.tensors else (1024, 1024)
    some = (min(shape[0], 2048), min(shape[-1], 2048))  # large enough to compare, small enough to be quick
    gain = _layer_seconds(torch.float32, some) / _layer_seconds(torch.bfloat16, some)
    return "bf16" if gain > WORTH_BF16 else "fp32"


def _layer_seconds(dtype: torch.dtype, shape: tuple[int, ...]) -> float:
    """Time the matrix multiplications of about one layer on the CPU, the best of four attempts.

    Each attempt has a new number of tokens, as in training: the library prepares bf16 kernels for each new shape, which
    costs a small model more than it gains.
    """
    outputs, inputs = shape
    weight_IO, a_IR, b_RO = (
        torch.ones(*size, dtype=dtype) for size in ((inputs, outputs), (inputs, 16), (16, outputs))
    )
    best = float("inf")
    for attempt in range(4):
        tokens = 320 + 16 * attempt
        x_TI, heads_HTW = torch.ones(tokens, inputs, dtype=dtype), torch.ones(8, tokens // 2 + attempt, 64, dtype=dtype)
        start = time.perf_counter()
        for _ in range(4):  # the shapes of a pack recur in each layer, forward and backward
            torch.mm(x_TI, weight_IO)
            torch.mm(torch.mm(x_TI, a_IR), b_RO)
            torch.bmm(torch.softmax(torch.bmm(heads_HTW, heads_HTW.transpose(1, 2)), -1), heads_HTW)
        best = min(best, time.perf_counter() - start)
    return best


def free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine_memory() // local_processes()
