"""What the blocks of a decoder share on their way through one pack.

Axes: T token · N wanted place · D model width · L layer · P width of a layer's own input · R rotated pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .attention import Piece, Segment
from .config import Heads, Rope
from .linear import FusedLinear, Linear, NormLinear
from .norm import Norm, Normed


@dataclass(frozen=True)
class Pack:
    """Rows behind each other. `positions_T` counts from 0 in each row's own text; `segments` say who sees whom."""

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class ForwardContext:
    """Made once for a pack: attention's pieces and turns for each kind of layer, what stands before each token.

    `before_TK` are the places of the K tokens before each one in its own text, T where there is none. `inputs_TLP` are
    the layers' own inputs of the families that have them. `keys` are keys and values that later layers use again, from
    the `lenders`. `wanted_N` are the places that the block computes, `count` of them (None: all T).
    """

    dtype: torch.dtype
    anchor: torch.Tensor
    segments: tuple[Segment, ...]
    pieces: dict[Heads, tuple[Piece, ...]]
    turns: dict[Rope, torch.Tensor]
    before_TK: torch.Tensor
    inputs_TLP: torch.Tensor | None
    lenders: frozenset[int | None]
    wanted_N: torch.Tensor | None
    count: int
    keys: dict[int, torch.Tensor] = field(default_factory=dict)

    def wanted(self, x_TD: torch.Tensor) -> torch.Tensor:
        """The rows that the block computes."""
        return x_TD if self.wanted_N is None else x_TD[self.wanted_N]


def stacked(x_TD: torch.Tensor, norm: Norm | None, stack: FusedLinear, flow: ForwardContext) -> torch.Tensor:
    """The products of a stack with the normed x, (T, O), in the compute type."""
    if norm is None:
        return Linear.apply(x_TD.to(flow.dtype), flow.anchor, stack)
    return NormLinear.apply(x_TD, flow.anchor, norm, stack, flow.dtype)


def behind(x_TD: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """x through a norm of its own, where there is one."""
    return x_TD if norm is None else Normed.apply(x_TD, norm, torch.float32)


def places_before(segments: Sequence[Segment], tokens: int, count: int) -> torch.Tensor:
    """The places of the `count` tokens before each one in its own text, nearest first, (T, count); `tokens`: none."""
    before_TK = torch.full((tokens, count), tokens)
    for segment in segments:
        runs = (*segment.before, (segment.start, segment.stop))
        text = torch.cat([torch.full((count,), tokens), *(torch.arange(*run) for run in runs)])
        for back in range(count):
            end = len(text) - 1 - back
            before_TK[segment.start : segment.stop, back] = text[end - (segment.stop - segment.start) : end]
    return before_TK
