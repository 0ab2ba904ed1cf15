"""GGUF file → Decoder with a fresh adapter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from ..config import Config
from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile
from ..machine import usable_cores
from .arch import Spec, read_spec
from .decoder import Block, Decoder
from .linear import Part, Stack
from .lora import Layer, Lora
from .weights import Embedding, FrozenWeight, Scratch

TARGETS = {
    "all": ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    "attention": ("attn_q", "attn_k", "attn_v", "attn_output"),
    "feed-forward": ("ffn_gate", "ffn_up", "ffn_down"),
}


# Products must gain this much from bf16: what lies between them, and its conversions, gains nothing (docs/LOG.md)
WORTH_BF16 = 1.5


@dataclass(frozen=True)
class Placement:
    """Where and how a model computes: resolved from the configuration and the machine."""

    device: torch.device
    dtype: torch.dtype
    cached: bool
    threads: int

    def describe(self) -> dict[str, object]:
        return {
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "base_memory": "cached" if self.cached else "packed",
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Tunable:
    """An open base with its decoder and adapter."""

    spec: Spec
    decoder: Decoder
    lora: Lora
    placement: Placement


def resolve(file: GGUFFile, config: Config) -> Config:
    """The configuration with device, precision and threads as this machine and model want them.

    What they are decides the adapter's last bits, so a resumed or repeated run takes them from the first one.
    """
    threads = config.threads or usable_cores()
    torch.set_num_threads(threads)
    device = _device(config.device)
    precision = config.precision if config.precision != "auto" else _precision(file, device)
    return replace(config, device=device.type, precision=precision, threads=threads)


def place(file: GGUFFile, config: Config) -> Placement:
    """Choose device, number format and memory mode; sets torch's thread count."""
    config = resolve(file, config)
    device = _device(config.device)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Placement(device, dtype, _cache_base(file, config.base_memory, device, dtype), config.threads)


def load(file: GGUFFile, config: Config, placement: Placement, *, row_tokens: int = 0) -> Tunable:
    """Build the decoder over the file's blocks. `row_tokens` is the largest batch, to choose whether to recompute.

    Raises FineTuningNotSupportedError for a family without a spec, ModelFileError for missing or odd tensors.
    """
    spec = read_spec(file)
    _check_shapes(file, spec)
    names = [f"blk.{block}.{target}" for block in range(spec.layers) for target in TARGETS[config.targets]]
    layers = [Layer(name, *file.tensors[f"{name}.weight"].shape) for name in names]
    lora = Lora(
        layers, rank=config.rank, alpha=config.alpha, seed=config.seed, device=placement.device, dtype=placement.dtype
    )
    builder = _Builder(file, lora, frozenset(names), placement)
    head = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    decoder = Decoder(
        spec,
        embedding=Embedding(file),
        blocks=[builder.block(index) for index in range(spec.layers)],
        norm_D=builder.vector("output_norm.weight"),
        head=builder.weight([head]),
        dtype=placement.dtype,
        device=placement.device,
        recompute=_must_recompute(spec, row_tokens, placement),
    )
    if placement.cached:
        file.release()
    return Tunable(spec, decoder, lora, placement)


class _Builder:
    """Makes stacks and vectors from the tensors of one file."""

    def __init__(self, file: GGUFFile, lora: Lora, adapted: frozenset[str], placement: Placement) -> None:
        self._file, self._lora, self._adapted, self._placement = file, lora, adapted, placement
        self._scratch = None if placement.cached else Scratch()

    def block(self, index: int) -> Block:
        prefix = f"blk.{index}."
        return Block(
            attention_norm_D=self.vector(prefix + "attn_norm.weight"),
            qkv=self.stack(prefix, ("attn_q", "attn_k", "attn_v")),
            output=self.stack(prefix, ("attn_output",)),
            feed_forward_norm_D=self.vector(prefix + "ffn_norm.weight"),
            gate_up=self.stack(prefix, ("ffn_gate", "ffn_up")),
            down=self.stack(prefix, ("ffn_down",)),
        )

    def stack(self, prefix: str, names: Sequence[str]) -> Stack:
        parts, row = [], 0
        for name in names:
            rows = self._file.tensors[f"{prefix}{name}.weight"].shape[0]
            parts.append(Part(prefix + name, row, row + rows, prefix + name in self._adapted))
            row += rows
        return Stack(self.weight([f"{prefix}{name}.weight" for name in names]), parts, self._lora, self._bias(parts))

    def weight(self, names: Sequence[str]) -> FrozenWeight:
        placement = self._placement
        return FrozenWeight(
            self._file,
            names,
            dtype=placement.dtype,
            device=placement.device,
            threads=placement.threads,
            scratch=self._scratch,
        )

    def vector(self, name: str) -> torch.Tensor:
        values = np.array(self._file.tensor(name), dtype=np.float32).reshape(-1)
        return torch.from_numpy(values).to(self._placement.device)

    def _bias(self, parts: Sequence[Part]) -> torch.Tensor | None:
        names = [f"{part.name}.bias" for part in parts]
        if not any(name in self._file.tensors for name in names):
            return None
        pieces = [
            self.vector(name)
            if name in self._file.tensors
            else torch.zeros(part.stop - part.start, device=self._placement.device)
            for name, part in zip(names, parts, strict=True)
        ]
        return torch.cat(pieces).to(self._placement.dtype)


def _check_shapes(file: GGUFFile, spec: Spec) -> None:
    """Every tensor that the decoder reads is there and has the shape that the metadata promise."""
    heads, keys = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    shapes = {
        "attn_q": (heads, spec.width),
        "attn_k": (keys, spec.width),
        "attn_v": (keys, spec.width),
        "attn_output": (spec.width, heads),
        "ffn_gate": (spec.feed_forward, spec.width),
        "ffn_up": (spec.feed_forward, spec.width),
        "ffn_down": (spec.width, spec.feed_forward),
        "attn_norm": (spec.width,),
        "ffn_norm": (spec.width,),
    }
    expected = {f"blk.{block}.{name}.weight": shape for block in range(spec.layers) for name, shape in shapes.items()}
    expected |= {"output_norm.weight": (spec.width,), "token_embd.weight": (spec.vocabulary, spec.width)}
    for name, shape in expected.items():
        if name not in file.tensors:
            raise ModelFileError(f"{file.path}: the tensor {name} is missing; export the model again")
        if tuple(file.tensors[name].shape) != shape:
            raise ModelFileError(
                f"{file.path}: {name} has shape {tuple(file.tensors[name].shape)}, its metadata say {shape}"
            )


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[wanted]:
        raise FineTuningNotSupportedError(f"--device {wanted}: this machine or this torch has none; use --device auto")
    return torch.device(wanted)


def _precision(file: GGUFFile, device: torch.device) -> str:
    """The faster of bf16 and float32; on a CPU by trying both on products of the model's own size."""
    if device.type != "cpu":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    shape = file.tensors["blk.0.ffn_up.weight"].shape if "blk.0.ffn_up.weight" in file.tensors else (1024, 1024)
    some = (min(shape[0], 2048), min(shape[-1], 2048))  # enough to tell, and quick for a large model
    gain = _layer_seconds(torch.float32, some) / _layer_seconds(torch.bfloat16, some)
    return "bf16" if gain > WORTH_BF16 else "fp32"


def _layer_seconds(dtype: torch.dtype, shape: tuple[int, ...]) -> float:
    """The products of about one layer on the CPU, at new numbers of tokens each time, the best of a few.

    New ones, as rows of all lengths bring them: bf16 products are prepared anew for each, which costs a small model
    more than it gains.
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
        for _ in range(4):  # a pack's sizes come again in each layer, forward and backward
            torch.mm(x_TI, weight_IO)
            torch.mm(torch.mm(x_TI, a_IR), b_RO)
            torch.bmm(torch.softmax(torch.bmm(heads_HTW, heads_HTW.transpose(1, 2)), -1), heads_HTW)
        best = min(best, time.perf_counter() - start)
    return best


def _cache_base(file: GGUFFile, wanted: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Float copies spare the unpacking in each step; taken where they fit in half of the free memory."""
    if wanted != "auto":
        return wanted == "cached"
    elements = sum(int(np.prod(info.shape)) for info in file.tensors.values())
    return elements * dtype.itemsize < free_memory(device) // 2


def free_memory(device: torch.device) -> int:
    """Free bytes where the model computes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _must_recompute(spec: Spec, row_tokens: int, placement: Placement) -> bool:
    """Keep activations where they fit in a quarter of the free memory, else make each block's again."""
    kept = spec.heads * spec.head_width * 2 + 2 * spec.kv_heads * spec.head_width + 2 * spec.feed_forward
    bytes_per_token = spec.layers * (kept * placement.dtype.itemsize + 2 * spec.width * 4)
    return bytes_per_token * row_tokens > free_memory(placement.device) // 4
