"""Which GGUF type each touched tensor gets: the smallest in which what was learnt survives.

A base's weights lie on the grid of their own type, so rounding W + ΔW back to it can undo the whole of ΔW
(docs/decisions/0005). So the loss is measured for each tensor instead of assumed.

Axes: O output · I input · R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Type

from ..gguf import quants
from ..gguf.read import GGUFFile

# smallest first; K-quants stand before Q8_0 because llama.cpp serves them faster on a CPU
LADDER = (Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_0, Type.F16, Type.F32)
SAMPLE_ROWS = 128  # rows that are measured in each tensor; the shares vary little from row to row


@dataclass(frozen=True)
class TypeChoice:
    """A touched tensor's type. `kept` is the share of ΔW along itself that survives the rounding (1 = all of it),
    `noise` the rounding error's size beside ΔW's own."""

    name: str
    base_type: Type
    type: Type
    kept: float
    noise: float


class WeightUpdate:
    """ΔW of each adapted layer: scale · B @ A, made when asked for."""

    def __init__(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float) -> None:
        self._pairs, self._scale = pairs, scale

    def names(self) -> list[str]:
        """Tensors that differ from the base's at all."""
        return [f"{name}.weight" for name, (a_RI, b_OR) in self._pairs.items() if a_RI.any() and b_OR.any()]

    def of(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        a_RI, b_OR = self._pairs[name.removesuffix(".weight")]
        return (self._scale * b_OR[rows]) @ a_RI


def choose(file: GGUFFile, delta: WeightUpdate, *, wanted: str, keep: float, threads: int) -> list[TypeChoice]:
    """A type for each touched tensor: `wanted`, or with "auto" the smallest in which at least `keep` of ΔW survives."""
    choices = []
    for name in delta.names():
        ladder = ladder_of(file, name) if wanted == "auto" else (_forced(file, name, Type[wanted]),)
        measured = (measure(file, delta, name, kind, threads=threads) for kind in ladder)
        choice = next((choice for choice in measured if choice.kept >= keep), None)
        choices.append(choice or measure(file, delta, name, ladder[-1], threads=threads))
    return choices


def upgrade_worst_half(
    file: GGUFFile, delta: WeightUpdate, choices: Sequence[TypeChoice], *, threads: int
) -> list[TypeChoice] | None:
    """One type up for the half of the tensors whose rounding is largest beside ΔW; None when all are at the top."""
    open_choices = [choice for choice in choices if _next_type(file, choice) is not None]
    if not open_choices:
        return None
    worst = sorted(open_choices, key=lambda choice: -choice.noise)[: -(-len(open_choices) // 2)]
    names = {choice.name for choice in worst}
    raised = []
    for choice in choices:
        kind = _next_type(file, choice) if choice.name in names else None
        raised.append(choice if kind is None else measure(file, delta, choice.name, kind, threads=threads))
    return raised


def measure(file: GGUFFile, delta: WeightUpdate, name: str, kind: Type, *, threads: int) -> TypeChoice:
    """What survives of ΔW in `kind`, on rows spread over the tensor."""
    info = file.tensors[name]
    rows = np.unique(np.linspace(0, info.shape[0] - 1, min(SAMPLE_ROWS, info.shape[0])).astype(np.int64))
    base_OI = quants.dequantize(file.blocks(name)[rows], info.type)
    delta_OI = delta.of(name, rows)
    wanted_OI = base_OI + delta_OI
    packed = quants.quantize(wanted_OI, kind, threads=threads, name=name)
    got_OI = quants.dequantize(packed, kind)
    size = float(np.vdot(delta_OI, delta_OI))
    kept = float(np.vdot(got_OI - base_OI, delta_OI)) / size if size else 1.0
    noise = float(np.linalg.norm(got_OI - wanted_OI)) / size**0.5 if size else 0.0
    return TypeChoice(name, info.type, kind, kept, noise)


def ladder_of(file: GGUFFile, name: str) -> tuple[Type, ...]:
    """The base's own type, then the larger ones that fit the tensor's rows and can be made here.

    A quantised base goes no further than Q8_0: beyond, llama.cpp's rounding of activations is what differs.
    """
    info = file.tensors[name]
    width, own = info.shape[-1], quants.bytes_per_row(info.type, info.shape[-1])
    reach = LADDER if info.type in quants.FLOATS else LADDER[: LADDER.index(Type.Q8_0) + 1]
    larger = [
        kind
        for kind in reach
        if quants.row_fits(kind, width) and quants.can_quantize(kind) and quants.bytes_per_row(kind, width) > own
    ]
    return (info.type, *larger) if quants.can_quantize(info.type) else tuple(larger)


def _forced(file: GGUFFile, name: str, kind: Type) -> Type:
    """The wanted type, or the next larger one where the rows are no multiple of its block (as llama.cpp does)."""
    width = file.tensors[name].shape[-1]
    if quants.row_fits(kind, width):
        return kind
    return next(each for each in LADDER[LADDER.index(kind) + 1 :] if quants.row_fits(each, width))


def _next_type(file: GGUFFile, choice: TypeChoice) -> Type | None:
    ladder = ladder_of(file, choice.name)
    place = ladder.index(choice.type) + 1 if choice.type in ladder else len(ladder)
    return ladder[place] if place < len(ladder) else None
