"""Choose the GGUF type of each changed tensor: large enough to preserve the LoRA update ΔW, within a size for the file.

The base's weights are on the grid of their own type, so quantising W + ΔW to it again can undo all of ΔW
(docs/decisions/0005). The loss is therefore measured for each tensor. The grid of another type rounds W itself, below
Q8_0 by several times ΔW, so tensors get their largest type as far as the size of the file allows (docs/decisions/0015).

Axes: O output · I input · R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Type

from ..gguf import quants
from ..gguf.read import GGUFFile

# smallest first; K-quants come before Q8_0 because llama.cpp runs them faster on a CPU
LADDER = (Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_0, Type.F16, Type.F32)
NARROW_LADDER = (Type.Q5_0, *LADDER[LADDER.index(Type.Q8_0) :])  # rows too short for K-quants
MOST_GROWTH = 0.25  # of the base file's size
MOST_NOISE = 0.5  # of ΔW: up to 1, the first file of a tuned SmolLM2 lost two of 72 clear labels, with 0.5 none
TOLERANT = ("ffn_gate", "ffn_up")  # their rounding moves the answers least (docs/decisions/0015)
SAMPLE_ROWS = 128  # rows measured per tensor; the share varies little between rows


@dataclass(frozen=True)
class TypeChoice:
    """Type of a changed tensor. `kept`: share of ΔW that quantisation preserves, by projection on ΔW (1: all of it);
    `noise`: norm of the rounding error divided by the norm of ΔW."""

    name: str
    base_type: Type
    type: Type
    kept: float
    noise: float


class WeightUpdate:
    """LoRA update ΔW = scale · B @ A of each adapted tensor, computed on demand.

    `pairs` maps the name of a tensor to (A_RI, B_OR).
    """

    def __init__(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float) -> None:
        self._pairs, self._scale = pairs, scale

    def names(self) -> list[str]:
        """Names of the tensors that differ from the base's."""
        return [name for name, (a_RI, b_OR) in self._pairs.items() if a_RI.any() and b_OR.any()]

    def of(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """ΔW_OI of a tensor, all or some rows."""
        a_RI, b_OR = self._pairs[name]
        return (self._scale * b_OR[rows]) @ a_RI


def choose(file: GGUFFile, update: WeightUpdate, *, wanted: str, keep: float, threads: int) -> list[TypeChoice]:
    """Choose a type for each changed tensor: `wanted`, or with "auto" the smallest that preserves `keep` of ΔW.

    With "auto", tensors whose rounding error exceeds MOST_NOISE then get their largest type while the file is at most
    MOST_GROWTH larger than its base: TOLERANT ones last, else those first whose noise falls most by the byte.
    """
    choices = []
    for name in update.names():
        ladder = ladder_of(file, name) if wanted == "auto" else (_forced(file, name, Type[wanted]),)
        measured = (measure(file, update, name, kind, threads=threads) for kind in ladder)
        choice = next((choice for choice in measured if choice.kept >= keep), None)
        choices.append(choice or measure(file, update, name, ladder[-1], threads=threads))
    return _within_size(file, update, choices, threads=threads) if wanted == "auto" else choices


def _within_size(
    file: GGUFFile, update: WeightUpdate, choices: Sequence[TypeChoice], *, threads: int
) -> list[TypeChoice]:
    room = MOST_GROWTH * file.path.stat().st_size
    room -= sum(tensor_bytes(file, choice) - file.tensors[choice.name].nbytes for choice in choices)
    found = {choice.name: choice for choice in choices}
    better = [_largest(file, update, choice, threads=threads) for choice in choices if choice.noise > MOST_NOISE]
    added = {each.name: tensor_bytes(file, each) - tensor_bytes(file, found[each.name]) for each in better}

    def order(each: TypeChoice) -> tuple[bool, float]:
        fall = found[each.name].noise ** 2 - each.noise**2
        return any(part in each.name for part in TOLERANT), -fall / max(1, added[each.name])

    for each in sorted(better, key=order):
        if added[each.name] <= room:
            room -= added[each.name]
            found[each.name] = each
    return list(found.values())


def largest(
    file: GGUFFile, update: WeightUpdate, choices: Sequence[TypeChoice], *, threads: int
) -> list[TypeChoice] | None:
    """Take the largest type for every tensor; None if all have it."""
    found = [_largest(file, update, choice, threads=threads) for choice in choices]
    return found if found != list(choices) else None


def _largest(file: GGUFFile, update: WeightUpdate, choice: TypeChoice, *, threads: int) -> TypeChoice:
    kind = ladder_of(file, choice.name)[-1]
    return choice if kind == choice.type else measure(file, update, choice.name, kind, threads=threads)


def tensor_bytes(file: GGUFFile, choice: TypeChoice) -> int:
    """Size of a changed tensor in its chosen type."""
    info = file.tensors[choice.name]
    return info.rows * quants.bytes_per_row(choice.type, info.width)


def measure(file: GGUFFile, update: WeightUpdate, name: str, kind: Type, *, threads: int) -> TypeChoice:
    """Measure how much of ΔW the type `kind` preserves, on rows spread over the tensor."""
    info = file.tensors[name]
    rows = np.unique(np.linspace(0, info.shape[0] - 1, min(SAMPLE_ROWS, info.shape[0])).astype(np.int64))
    base_OI = quants.dequantize(file.blocks(name)[rows], info.type)
    update_OI = update.of(name, rows)
    wanted_OI = base_OI + update_OI
    packed = quants.quantize(wanted_OI, kind, threads=threads, name=name)
    got_OI = quants.dequantize(packed, kind)
    size = float(np.vdot(update_OI, update_OI))
    kept = float(np.vdot(got_OI - base_OI, update_OI)) / size if size else 1.0
    noise = float(np.linalg.norm(got_OI - wanted_OI)) / size**0.5 if size else 0.0
    return TypeChoice(name, info.type, kind, kept, noise)


def ladder_of(file: GGUFFile, name: str) -> tuple[Type, ...]:
    """The base's own type, then larger types that fit the tensor's rows and that we can write.

    A quantised base goes up to Q8_0: beyond it the difference comes from llama.cpp's rounding of activations.
    """
    info = file.tensors[name]
    width, own = info.shape[-1], quants.bytes_per_row(info.type, info.shape[-1])
    ladder = LADDER if quants.row_fits(Type.Q4_K, width) else NARROW_LADDER
    reach = ladder if info.type in quants.FLOATS else ladder[: ladder.index(Type.Q8_0) + 1]
    larger = [
        kind
        for kind in reach
        if quants.row_fits(kind, width) and quants.can_quantize(kind) and quants.bytes_per_row(kind, width) > own
    ]
    return (info.type, *larger) if quants.can_quantize(info.type) else tuple(larger)


def _forced(file: GGUFFile, name: str, kind: Type) -> Type:
    """The wanted type, or the next larger one if rows are not a multiple of its block size (as in llama.cpp)."""
    width = file.tensors[name].shape[-1]
    if quants.row_fits(kind, width):
        return kind
    return next(each for each in LADDER[LADDER.index(kind) + 1 :] if quants.row_fits(each, width))
