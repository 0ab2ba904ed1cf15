"""Attention over rows of one length with torch's fused kernels: on CUDA, where each kernel's start is what costs.

Rows are filled up at their ends: no token attends to the filling, and nothing reads what is computed there. Soft caps,
sinks and windows are left to `attention`, which also serves every other device.

Axes: T token of the pack · B row · L token of a row · H head · W head width · E concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .attention import Segment
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


def row_masks(segments: Sequence[Segment], row_length: int, rows: int) -> torch.Tensor | None:
    """True where a query attends to a key of its row, (B, 1, L, L); None if each row is one text."""
    if len(segments) == rows:
        return None
    mask_BLL = torch.eye(row_length, dtype=torch.bool).repeat(rows, 1, 1)  # the filling must attend to something
    for segment in segments:
        row, start = divmod(segment.start, row_length)
        stop = start + segment.stop - segment.start
        for begin, end in segment.before:
            mask_BLL[row, start:stop, begin - row * row_length : end - row * row_length] = True
        mask_BLL[row, start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
    return mask_BLL.unsqueeze(1)


def attend_rows(
    qkv_TE: torch.Tensor, heads: Heads, row_length: int, mask_B1LL: torch.Tensor | None = None
) -> torch.Tensor:
    """Concatenated queries, keys and values (T, E) → attention output (T, H · W); autograd has its backward pass."""
    parts_BHLW = qkv_TE.unflatten(0, (-1, row_length)).unflatten(-1, (-1, heads.width)).transpose(1, 2)
    q_BHLW, k_BHLW, v_BHLW = parts_BHLW.split((heads.queries, heads.keys, heads.keys), dim=1)
    grouped = heads.queries != heads.keys
    if mask_B1LL is not None and grouped:  # the kernels that take a mask take no groups
        k_BHLW, v_BHLW = (each.repeat_interleave(heads.queries // heads.keys, dim=1) for each in (k_BHLW, v_BHLW))
        grouped = False
    with sdpa_kernel(KERNELS):
        out_BHLW = torch.nn.functional.scaled_dot_product_attention(
            q_BHLW, k_BHLW, v_BHLW, mask_B1LL, is_causal=mask_B1LL is None, scale=heads.scale, enable_gqa=grouped
        )
    return out_BHLW.transpose(1, 2).flatten(2).flatten(0, 1)
