"""Data that the blocks of a decoder share while they process one pack.

Axes: T token · N wanted place · D model width · L layer · P per-layer embedding · K kernel element · O output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .attention import QueryBlock, Segment
from .config import Heads, Rope
from .linear import FusedLinear, Linear, NormLinear
from .norm import ApplyNorm, Norm


@dataclass(frozen=True)
class Pack:
    """Concatenated rows. `positions_T` counts from 0 in the text of each row; `segments` define who attends to whom.

    With a `row_length` the pack consists of rows of that length, filled up at their ends (see `sdpa`), and no segment
    goes beyond its row."""

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]
    row_length: int = 0


@dataclass(frozen=True)
class ForwardContext:
    """Made once for a pack: query blocks and rotary embeddings of each kind of layer, and the places before each token.

    `before_TK`: places of the tokens that precede each token in its text, T if there is none. `per_layer_TLP`: the
    per-layer embeddings, in families that have them. `shared_kv`: keys and values that `shared_kv_layers` write
    and later layers reuse. `wanted_N`: the `count` places that the block computes (None: all T). `row_length`: as in
    Pack; then attention computes all T and `wanted_N` selects from its output. `mask_B1LL`: see `sdpa.row_masks`.
    """

    dtype: torch.dtype
    anchor: torch.Tensor
    segments: tuple[Segment, ...]
    query_blocks: dict[Heads, tuple[QueryBlock, ...]]
    rotations: dict[Rope, torch.Tensor]
    before_TK: torch.Tensor
    per_layer_TLP: torch.Tensor | None
    shared_kv_layers: frozenset[int | None]
    wanted_N: torch.Tensor | None
    count: int
    row_length: int = 0
    mask_B1LL: torch.Tensor | None = None
    shared_kv: dict[int, torch.Tensor] = field(default_factory=dict)

    def wanted(self, x_TD: torch.Tensor) -> torch.Tensor:
        return x_TD if self.wanted_N is None else x_TD[self.wanted_N]


def norm_linear(x_TD: torch.Tensor, norm: Norm | None, linear: FusedLinear, context: ForwardContext) -> torch.Tensor:
    """Linear layer on the normalised x, (T, O), in the compute dtype."""
    if norm is None:
        return Linear.apply(x_TD.to(context.dtype), context.anchor, linear)
    return NormLinear.apply(x_TD, context.anchor, norm, linear, context.dtype)


def post_norm(x_TD: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    return x_TD if norm is None else ApplyNorm.apply(x_TD, norm, torch.float32)


def places_before(segments: Sequence[Segment], tokens: int, count: int) -> torch.Tensor:
    """Places of the `count` tokens that precede each token in its text, nearest first, (T, count); `tokens` if none."""
    before_TK = torch.full((tokens, count), tokens)
    for segment in segments:
        runs = (*segment.before, (segment.start, segment.stop))
        text = torch.cat([torch.full((count,), tokens), *(torch.arange(*run) for run in runs)])
        for back in range(count):
            end = len(text) - 1 - back
            before_TK[segment.start : segment.stop, back] = text[end - (segment.stop - segment.start) : end]
    return before_TK
