"""Self-attention of one block: norm, queries, keys and values, their own norms, rotation, attention, output gate.

Axes: T token · N wanted place · D model width · H query head · K key head · W head width · E stacked widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .attention import ApplyRotary, Attention
from .config import Heads, Rope
from .forward_context import ForwardContext, stacked
from .linear import FusedLinear
from .norm import Norm, Normed


@dataclass(frozen=True)
class SelfAttention:
    """`qkv` holds the queries only where the layer uses another one's keys and values (`keys_of`), and no values where
    they are the keys. With `gated`, each head's queries are followed by the gate of its output."""

    index: int
    heads: Heads
    rope: Rope | None
    norm: Norm | None
    qkv: FusedLinear
    head_norms: tuple[Norm | None, Norm | None, Norm | None]
    sinks_H: torch.Tensor | None
    keys_of: int | None
    gated: bool

    def mix(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """The heads' outputs beside each other (T, H · W), or at the wanted places (N, H · W)."""
        heads, borrows = self.heads, self.keys_of is not None
        qkv_TE, gate_TE = stacked(x_TD, self.norm, self.qkv, flow), None
        if self.gated:
            qkv_TE, gate_TE = self._split_gate(qkv_TE)
        if any(norm is not None for norm in self.head_norms):
            qkv_TE = self._normed(qkv_TE)
        if self.rope is not None:
            turning = heads.queries if borrows else heads.queries + heads.keys
            qkv_TE = ApplyRotary.apply(qkv_TE, flow.turns[self.rope], turning, heads.width, self.rope.halves)
        if self.keys_of is not None:
            qkv_TE = torch.cat([qkv_TE, flow.keys[self.keys_of]], dim=-1)
        if self.index in flow.lenders:
            flow.keys[self.index] = qkv_TE[:, heads.queries * heads.width :]
        mixed_NE = Attention.apply(qkv_TE, flow.pieces[heads], heads, self.sinks_H, flow.count)
        return mixed_NE if gate_TE is None else mixed_NE * torch.sigmoid(flow.wanted(gate_TE))

    def _split_gate(self, qkv_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries, width = self.heads.queries, self.heads.width
        both_TE, rest_TE = qkv_TE.tensor_split((2 * queries * width,), dim=-1)
        queries_THW, gate_THW = both_TE.unflatten(-1, (queries, 2 * width)).chunk(2, dim=-1)
        return torch.cat([queries_THW.flatten(-2), rest_TE], dim=-1), gate_THW.flatten(-2)

    def _normed(self, qkv_TE: torch.Tensor) -> torch.Tensor:
        """Norms over each head, or over all, by the weight's width; values that are not stacked are the keys."""
        heads = self.heads
        queries_TE, rest_TE = qkv_TE.tensor_split((heads.queries * heads.width,), dim=-1)
        parts = [queries_TE]
        if self.keys_of is None:
            parts += [rest_TE[:, : heads.keys * heads.width], rest_TE[:, -heads.keys * heads.width :]]
        return torch.cat(
            [_over_heads(part_TE, norm, heads) for part_TE, norm in zip(parts, self.head_norms, strict=False)], dim=-1
        )


def _over_heads(x_TE: torch.Tensor, norm: Norm | None, heads: Heads) -> torch.Tensor:
    if norm is None:
        return x_TE
    width = heads.width if norm.weight_D is None else norm.weight_D.shape[-1]
    return Normed.apply(x_TE.unflatten(-1, (-1, width)), norm, x_TE.dtype).flatten(-2)
