"""Choose the GGUF type of each changed tensor: the smallest that preserves the LoRA update ΔW.

The base's weights are on the grid of their own type, so quantising W + ΔW to it again can undo all of ΔW
(docs/decisions/0005). The loss is therefore measured for each tensor.

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
NARROW_LADDER = (Type.Q5_0, Type.Q5_1, *LADDER[LADDER.index(Type.Q8_0) :])  # rows too short for K-quants
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
    """Choose a type for each changed tensor: `wanted`, or with "auto" the smallest that preserves `keep` of ΔW."""
    choices = []
    for name in update.names():
        ladder = ladder_of(file, name) if wanted == "auto" else (_forced(file, name, Type[wanted]),)
        measured = (measure(file, update, name, kind, threads=threads) for kind in ladder)
        choice = next((choice for choice in measured if choice.kept >= keep), None)
        choices.append(choice or measure(file, update, name, ladder[-1], threads=threads))
    return choices


def upgrade(
    file: GGUFFile, update: WeightUpdate, choices: Sequence[TypeChoice], *, threads: int
) -> list[TypeChoice] | None:
    """Take the next larger type for every tensor; None if all have the largest."""
    kinds = [_next_type(file, choice) for choice in choices]
    if not any(kinds):
        return None
    return [
        choice if kind is None else measure(file, update, choice.name, kind, threads=threads)
        for choice, kind in zip(choices, kinds, strict=True)
    ]


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


def _next_type(file: GGUFFile, choice: TypeChoice) -> Type | None:
    ladder = ladder_of(file, choice.name)
    place = ladder.index(choice.type) + 1 if choice.type in ladder else len(ladder)
    return ladder[place] if place < len(ladder) else None
