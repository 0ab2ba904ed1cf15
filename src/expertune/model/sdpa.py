"""Attention over rows of one length with torch's fused kernels: on CUDA, where each kernel's start is what costs.

Rows are filled up at their ends. Attention is causal, so that no token attends to the filling, and nothing reads what
is computed there. Segments, soft caps and sinks are left to `attention`, which also serves every other device.

Axes: T token of the pack · B row · L token of a row · H head · W head width · E concatenated.
"""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import Heads, ModelConfig

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def suits_rows(config: ModelConfig) -> bool:
    """True for decoders whose layers need nothing but rows: plain attention and dense feed-forwards."""
    return not (config.experts or config.per_layer_embedding_dim) and all(
        not (layer.conv_kernel or layer.gated_delta_net or layer.heads.softcap or layer.output_gate)
        and layer.kv_shared_with is None
        and "attn_sinks" not in (*layer.tensors, *layer.optional)
        for layer in config.layers
    )


def is_fused(heads: Heads, row_length: int) -> bool:
    """True if a pack of rows of this length (0: segments) needs no mask but the causal one."""
    return bool(row_length) and (not heads.window or heads.window >= row_length)


def attend_rows(qkv_TE: torch.Tensor, heads: Heads, row_length: int) -> torch.Tensor:
    """Concatenated queries, keys and values (T, E) → attention output (T, H · W); autograd has its backward pass."""
    parts_BHLW = qkv_TE.unflatten(0, (-1, row_length)).unflatten(-1, (-1, heads.width)).transpose(1, 2)
    q_BHLW, k_BHLW, v_BHLW = parts_BHLW.split((heads.queries, heads.keys, heads.keys), dim=1)
    with sdpa_kernel(KERNELS):
        out_BHLW = torch.nn.functional.scaled_dot_product_attention(
            q_BHLW, k_BHLW, v_BHLW, is_causal=True, scale=heads.scale, enable_gqa=heads.queries != heads.keys
        )
    return out_BHLW.transpose(1, 2).flatten(2).flatten(0, 1)
