"""Self-attention of one block: norm, QKV projection, QK norms, rotary embedding, attention, output gate.

Axes: T token · N wanted place · D model width · H query head · W head width · E concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .attention import ApplyRotary, Attention
from .config import Heads, LayerConfig
from .forward_context import ForwardContext, norm_linear
from .linear import FusedLinear
from .norm import ApplyNorm, Norm
from .sdpa import attend_rows, is_fused


@dataclass(frozen=True)
class SelfAttention:
    """`qkv` projects to queries only if the layer reuses another layer's keys and values (`kv_shared_with`), and to no
    values if the values are the keys. With `output_gate` the queries of each head are followed by its gate."""

    index: int
    layer: LayerConfig
    norm: Norm | None
    qkv: FusedLinear
    head_norms: tuple[Norm | None, Norm | None, Norm | None]
    sinks_H: torch.Tensor | None

    def mix(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Concatenated outputs of the heads: (T, H · W), or (N, H · W) at the wanted places."""
        heads, rope, shared_with = self.layer.heads, self.layer.rope, self.layer.kv_shared_with
        qkv_TE, gate_TE = norm_linear(x_TD, self.norm, self.qkv, context), None
        if self.layer.output_gate:
            qkv_TE, gate_TE = self._split_gate(qkv_TE)
        if any(norm is not None for norm in self.head_norms):
            qkv_TE = self._norm_heads(qkv_TE)
        if rope is not None:
            rotated = heads.queries if shared_with is not None else heads.queries + heads.keys
            qkv_TE = ApplyRotary.apply(qkv_TE, context.rotations[rope], rotated, heads.width, rope.neox_style)
        if shared_with is not None:
            qkv_TE = torch.cat([qkv_TE, context.shared_kv[shared_with]], dim=-1)
        if self.index in context.shared_kv_layers:
            context.shared_kv[self.index] = qkv_TE[:, heads.queries * heads.width :]
        mixed_NE = self._attend(qkv_TE, context)
        return mixed_NE if gate_TE is None else mixed_NE * torch.sigmoid(context.wanted(gate_TE))

    def _attend(self, qkv_TE: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        heads = self.layer.heads
        if is_fused(heads, context.row_length):
            return context.wanted(attend_rows(qkv_TE, heads, context.row_length, context.mask_B1LL))
        count = len(qkv_TE) if context.row_length else context.count
        mixed_NE = Attention.apply(qkv_TE, context.query_blocks[heads], heads, self.sinks_H, count)
        return context.wanted(mixed_NE) if context.row_length else mixed_NE

    def _split_gate(self, qkv_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries, width = self.layer.heads.queries, self.layer.heads.width
        both_TE, rest_TE = qkv_TE.tensor_split((2 * queries * width,), dim=-1)
        queries_THW, gate_THW = both_TE.unflatten(-1, (queries, 2 * width)).chunk(2, dim=-1)
        return torch.cat([queries_THW.flatten(-2), rest_TE], dim=-1), gate_THW.flatten(-2)

    def _norm_heads(self, qkv_TE: torch.Tensor) -> torch.Tensor:
        """Normalise each head, or all heads at once if the weights are that wide; missing values are the keys."""
        heads = self.layer.heads
        queries_TE, rest_TE = qkv_TE.tensor_split((heads.queries * heads.width,), dim=-1)
        parts = [queries_TE]
        if self.layer.kv_shared_with is None:
            parts += [rest_TE[:, : heads.keys * heads.width], rest_TE[:, -heads.keys * heads.width :]]
        pairs = zip(parts, self.head_norms, strict=False)
        return torch.cat([_apply_head_norm(part_TE, norm, heads) for part_TE, norm in pairs], dim=-1)


def _apply_head_norm(x_TE: torch.Tensor, norm: Norm | None, heads: Heads) -> torch.Tensor:
    if norm is None:
        return x_TE
    width = heads.width if norm.weight_D is None else norm.weight_D.shape[-1]
    return ApplyNorm.apply(x_TE.unflatten(-1, (-1, width)), norm, x_TE.dtype).flatten(-2)
