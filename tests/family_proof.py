"""Measurements of every architecture and quantisation against llama.cpp: asserted by tests/parity/test_families.py,
printed as a table by bench/families.py.

llama.cpp quantises the activations that are multiplied with quantised weights; training does not. So each quantised
model is also written with the same weights in float32 (dequantised by gguf-py): there both must give the same result.
The only other rounding of llama.cpp is in GELU, which it looks up in a table of half floats; `llama_cpp_gelu` does too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import families
import tiny
from expertune.config import Config
from expertune.export.merged import MergeTarget, write_merged
from expertune.export.quant_types import WeightUpdate, choose
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_adapter
from expertune.model import feed_forward
from expertune.model.attention import Segment
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, Tunable, load
from expertune.train import loss as losses
from expertune.train.batches import Batch, dev_batch, training_batch
from expertune.train.encode import Candidates, Row
from llama import Served

TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M", "MXFP4",
)  # fmt: skip
LENGTHS = (3, 40, 120)  # tokens; the window of the families that have one is 16
STEP = 4e-3  # of a finite difference; shorter where it is steep, so that the loss moves by about as much
MOST = 14  # adapted matrices whose gradient is checked, about: those of two blocks


def open_model(
    path: Path, *, adapter_size: float = 0.0, cached: bool = True, dtype: torch.dtype = torch.float32, **settings: Any
) -> Tunable:
    """Load the file for training, with a random adapter of the given size (0: one that changes nothing)."""
    config = Config(rank=4, alpha=8.0, **settings)
    torch.set_num_threads(1)  # a second thread only slows such small matrices down
    tunable = load(GGUFFile(path), config, Placement(torch.device("cpu"), dtype, cached, 1))
    draw = torch.Generator().manual_seed(3)
    tunable.lora.values_P.add_(adapter_size * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()
    return tunable


def save_adapter(path: Path, tunable: Tunable) -> None:
    lora = tunable.lora
    write_adapter(path, architecture=tunable.model_config.family, alpha=lora.alpha, tensors=lora.pairs(), metadata={})


def log_probabilities(tunable: Tunable, tokens: list[int]) -> np.ndarray:
    """log p of every token after `tokens`, (V,)."""
    pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
    with torch.no_grad():
        hidden_ND = tunable.decoder.hidden(pack, torch.tensor([len(tokens) - 1]))
        return torch.log_softmax(tunable.decoder.logits(hidden_ND), -1)[0].numpy()


def prompts(tunable: Tunable, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    draw = np.random.default_rng(1)
    return [[int(token) for token in draw.integers(5, tunable.model_config.vocabulary, length)] for length in lengths]


def _apart(theirs_V: np.ndarray, ours_V: np.ndarray) -> float:
    return float(np.nanmax(np.abs(theirs_V - ours_V)))


def difference(tunable: Tunable, served: Served, lengths: tuple[int, ...] = LENGTHS) -> float:
    """The largest difference of log-probability over all tokens and prompts."""
    return max(
        _apart(served.log_probabilities(each, tunable.model_config.vocabulary), log_probabilities(tunable, each))
        for each in prompts(tunable, lengths)
    )


@contextlib.contextmanager
def llama_cpp_gelu() -> Iterator[None]:
    """Inside, models use GELU as in llama.cpp (ggml-cpu/vec.h: a table from half floats to half floats)."""
    exact = feed_forward._gelu
    feed_forward._gelu = lambda x: exact(x.half().float()).half().float()
    try:
        yield
    finally:
        feed_forward._gelu = exact


def as_llama_cpp(name: str) -> contextlib.AbstractContextManager[None]:
    return llama_cpp_gelu() if families.FAMILIES[name].gelu else contextlib.nullcontext()


def unpacked(path: Path, qtype: str) -> Path:
    """A file with the same weights in float32."""
    return path if qtype == "F32" else tiny.unpack(path, path.with_suffix(".f32.gguf"))


@dataclass(frozen=True)
class Logits:
    """`same`: with the same weights in float32. `served`: with the quantised file, whose activations are rounded."""

    same: float
    served: float


def logits(folder: Path, name: str, qtype: str) -> Logits:
    """Differences of log-probability from llama.cpp."""
    path = families.make(folder / "base.gguf", families.FAMILIES[name], qtype=qtype)
    with as_llama_cpp(name):
        tunable = open_model(path, cached=False)
    same = difference(tunable, Served(unpacked(path, qtype)))
    return Logits(same, same if qtype == "F32" else difference(tunable, Served(path)))


@dataclass(frozen=True)
class Exported:
    """`moved`: change of the log-probabilities by the adapter. `adapter` and `merged`: differences of the served files
    from the tuned decoder; `written`: of the served merged file from our decoder on that file."""

    moved: float
    adapter: float
    merged: float
    written: float


def exported(folder: Path, name: str, qtype: str = "F32", types: Mapping[str, str] | None = None) -> Exported:
    """Compare adapter and merged file as served by llama.cpp; the adapter on the same weights in float32.

    `types` are those of the matrices that are not in `qtype`, by a part of the name.
    """
    base = families.make(folder / "base.gguf", families.FAMILIES[name], qtype=qtype, types=types)
    with as_llama_cpp(name):
        plain, tuned = open_model(base), open_model(base, adapter_size=0.05)
    tokens = prompts(plain)[1]
    moved = float(np.abs(log_probabilities(plain, tokens) - log_probabilities(tuned, tokens)).max())
    with GGUFFile(base) as file:
        save_adapter(folder / "adapter.gguf", tuned)
        update = WeightUpdate(tuned.lora.pairs(), tuned.lora.scale)
        choices = choose(file, update, wanted="auto", keep=0.9, threads=1)
        write_merged(MergeTarget(folder / "merged.gguf", file, update, {"general.name": "merged"}, 1), choices)
    same = Served(unpacked(base, qtype), adapter=folder / "adapter.gguf")
    merged = Served(unpacked(folder / "merged.gguf", qtype))
    with as_llama_cpp(name):
        written = open_model(folder / "merged.gguf")
    return Exported(moved, difference(tuned, same), difference(tuned, merged), difference(written, merged))


def rows(seed: int = 0) -> list[Row]:
    """Three rows with a common prefix, longer than a window of 16."""
    draw = np.random.default_rng(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(5, 400, count))

    shared = some(9)
    return [
        Row(str(i), i, (*shared, *some(12 + 4 * i)), some(3 + i), tuple(float(w) for w in draw.uniform(0.1, 1, 3 + i)))
        for i in range(3)
    ]


def loss(tunable: Tunable, some_rows: list[Row]) -> torch.Tensor:
    batch = training_batch(some_rows, (1.0, 2.0, 0.5))
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
    return losses.weighted_loss(tunable.decoder, hidden_ND, batch.targets_N, batch.weights_N)


def gradient(tunable: Tunable, some_rows: list[Row]) -> torch.Tensor:
    """Gradient of the loss with respect to all parameters of the adapter, (P,)."""
    tunable.lora.gradients_P.zero_()
    loss(tunable, some_rows).backward()
    return tunable.lora.gradients_P.clone()


@torch.no_grad()
def scores(tunable: Tunable, some_rows: list[Row], candidates: Candidates) -> list[float]:
    """log p of each row's own answer and of each candidate, all in one pack."""
    made = dev_batch(some_rows, candidates)
    log_N = _log_of_targets(tunable, made.batch)
    return [float(log_N[each.targets].sum()) for each in made.continuations]


def scores_alone(tunable: Tunable, some_rows: list[Row], candidates: Candidates) -> list[float]:
    """The same, each in a pack of its own."""
    found = []
    for row in some_rows:
        asked = (*row.prompt, *candidates.shared)
        for prompt, answer in ((row.prompt, row.answer), *((asked, own) for own in candidates.own)):
            alone = Row(row.id, row.label, prompt, answer, (1.0,) * len(answer))
            with torch.no_grad():
                found.append(float(_log_of_targets(tunable, training_batch([alone], (1.0, 1.0, 1.0))).sum()))
    return found


def _log_of_targets(tunable: Tunable, batch: Batch) -> torch.Tensor:
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
    return losses.log_probabilities(tunable.decoder, hidden_ND, batch.targets_N)


@dataclass(frozen=True)
class Slope:
    """A finite difference and the derivative from the backward pass."""

    name: str
    measured: float
    computed: float


def slopes(tunable: Tunable, some_rows: list[Row]) -> Iterator[Slope]:
    """Derivatives for A and B of adapted layers: of the entry with the steepest gradient, and in a random direction."""
    found_P, draw = gradient(tunable, some_rows), torch.Generator().manual_seed(0)
    layers = tunable.lora.layers
    for layer in layers[:: max(1, len(layers) // MOST)]:
        for part, view in (("A", tunable.lora.a), ("B", tunable.lora.b)):
            values, said = view(layer.name, tunable.lora.values_P), view(layer.name, found_P)
            one = torch.zeros_like(said)
            one.view(-1)[said.abs().argmax()] = 1.0
            for kind, direction in (("steepest", one), ("all", _random_direction(said, draw))):
                slope = float((said * direction).sum())
                step = STEP / max(1.0, abs(slope))
                measured = _difference(tunable, some_rows, values, direction, step)
                if abs(measured - slope) > 0.01 * abs(slope):  # did a router choose another expert?
                    nearer = _difference(tunable, some_rows, values, direction, step / 4)
                    measured = min(measured, nearer, key=lambda found: abs(found - slope))
                yield Slope(f"{layer.name} {part} {kind}", measured, slope)


def _random_direction(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    direction = torch.randn(like.shape, generator=draw)
    return direction / direction.norm()


def _difference(
    tunable: Tunable, some_rows: list[Row], values: torch.Tensor, direction: torch.Tensor, step: float
) -> float:
    kept, ends = values.clone(), []
    for side in (step, -step):
        values.copy_(kept + side * direction)
        tunable.lora.refresh()
        with torch.no_grad():
            ends.append(float(loss(tunable, some_rows)))
    values.copy_(kept)
    tunable.lora.refresh()
    return (ends[0] - ends[1]) / (2 * step)
