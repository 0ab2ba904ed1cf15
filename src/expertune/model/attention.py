"""Causal attention over packed rows, with a hand-written backward pass.

Rows are concatenated without padding. A `Segment` is a run of tokens that attend causally to each other and to whole
earlier runs (`before`): the rows of a batch share a common prefix this way, and the candidate answers of a row share
its prompt. The backward pass recomputes the scores instead of keeping them, so memory grows with the longest segment,
not with the number of layers.

torch's scaled_dot_product_attention is not used: its CPU backward pass took a quarter of a step (docs/LOG.md).

Axes: T token · Q query · K key · H head · G query heads per key head · W head width · F rotated pair · E concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .config import Heads

QUERIES_AT_ONCE = 512  # limits the scores held at once to heads · 512 · keys
# The CPU's matrix library prepares a bfloat16 product anew for each shape, and each row has shapes of its own: up to so
# many keys float32, which needs no preparation, is faster, and all other products stay prepared (docs/LOG.md).
KEYS_IN_FLOAT32 = 256

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # views: queries (H, G, T, W), keys and values (H, T, W)


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack; `before` are the runs that precede them in their text."""

    start: int
    stop: int
    before: tuple[tuple[int, int], ...] = ()

    @property
    def length_before(self) -> int:
        return sum(stop - start for start, stop in self.before)


class ApplyRotary(torch.autograd.Function):
    """Rotary position embedding on the first `heads` heads of (T, E), in place: nobody needs the input afterwards.

    `rotation_TF` is complex64, (T, F). The backward pass rotates the gradient by the opposite angle.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TE: torch.Tensor, rotation_TF: torch.Tensor, heads: int, width: int, neox_style: bool
    ) -> torch.Tensor:
        ctx.layout = heads, width, neox_style
        ctx.save_for_backward(rotation_TF)
        ctx.mark_dirty(x_TE)
        rotate(x_TE[:, : heads * width].unflatten(-1, (-1, width)), rotation_TF, neox_style=neox_style)
        return x_TE

    @staticmethod
    def backward(ctx: Any, dx_TE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        heads, width, neox_style = ctx.layout
        dx_TE = dx_TE.clone()
        rotate(dx_TE[:, : heads * width].unflatten(-1, (-1, width)), ctx.saved_tensors[0].conj(), neox_style=neox_style)
        return dx_TE, None, None, None, None


def rotate(x_THW: torch.Tensor, rotation_TF: torch.Tensor, *, neox_style: bool) -> None:
    """Rotate the first F pairs of each head in place (see config.Rope)."""
    part_THW = x_THW[..., : 2 * rotation_TF.shape[-1]]
    rotation_T1F = rotation_TF.unsqueeze(1)
    if neox_style:
        first_THF, second_THF = part_THW.chunk(2, dim=-1)
        rotated_THF = torch.complex(first_THF.float(), second_THF.float()).mul_(rotation_T1F)
        first_THF.copy_(rotated_THF.real)
        second_THF.copy_(rotated_THF.imag)
        return
    rotated_THF = torch.view_as_complex(part_THW.float().unflatten(-1, (-1, 2))) * rotation_T1F
    part_THW.copy_(torch.view_as_real(rotated_THF).flatten(-2))


@dataclass(frozen=True)
class QueryBlock:
    """Queries that are computed together: their rows in the pack and in the output, and the keys that they attend to.

    The keys are those of the runs before the segment and the segment's own up to `stop`. `mask_1QK` is -inf for keys
    after a query or before its window, 0 elsewhere; its Q axis stacks the query heads of one key head.
    """

    segment: Segment
    rows: slice | torch.Tensor
    out: slice
    stop: int
    mask_1QK: torch.Tensor

    @property
    def count(self) -> int:
        return self.out.stop - self.out.start


def make_query_blocks(
    segments: Sequence[Segment],
    wanted_N: torch.Tensor | None,
    heads: Heads,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[QueryBlock, ...]:
    """Split the queries into blocks: all tokens, or only `wanted_N` (sorted places in the pack, on the CPU).

    `dtype` is that of the masks, in which attention computes; float32 for short texts on the CPU.
    """
    blocks, done = [], 0
    keys = max((segment.length_before + segment.stop - segment.start for segment in segments), default=0)
    if device.type == "cpu" and keys <= KEYS_IN_FLOAT32:
        dtype = torch.float32
    for segment, places_Q in _runs_of_queries(segments, wanted_N):
        first, stop = int(places_Q[0]), int(places_Q[-1]) + 1
        rows = slice(first, stop) if stop - first == len(places_Q) else places_Q.to(device)
        mask_1QK = _mask(segment, places_Q, heads, dtype).to(device)
        blocks.append(QueryBlock(segment, rows, slice(done, done + len(places_Q)), stop, mask_1QK))
        done += len(places_Q)
    return tuple(blocks)


def _runs_of_queries(
    segments: Sequence[Segment], wanted_N: torch.Tensor | None
) -> Iterator[tuple[Segment, torch.Tensor]]:
    """At most QUERIES_AT_ONCE places of one segment at a time, never none."""
    for segment in segments:
        if wanted_N is None:
            places = torch.arange(segment.start, segment.stop)
        else:
            places = wanted_N[(wanted_N >= segment.start) & (wanted_N < segment.stop)]
        yield from ((segment, run_Q) for run_Q in places.split(QUERIES_AT_ONCE) if len(run_Q))


def _mask(segment: Segment, places_Q: torch.Tensor, heads: Heads, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query attends to a key, -inf elsewhere, (1, G · Q, K); keys end with the last query's own."""
    before, stop = segment.length_before, int(places_Q[-1]) + 1
    mask_QK = torch.zeros(len(places_Q), before + stop - segment.start, dtype=dtype)
    position_Q = places_Q - segment.start + before
    ahead_QK = torch.arange(mask_QK.shape[1]) - position_Q.unsqueeze(-1)  # 0: the query's own token
    mask_QK.masked_fill_(ahead_QK > 0, float("-inf"))
    if heads.window:
        mask_QK.masked_fill_(ahead_QK <= -heads.window, float("-inf"))
    return mask_QK.repeat(heads.queries // heads.keys, 1).unsqueeze(0)


class Attention(torch.autograd.Function):
    """Concatenated queries, keys and values (T, E) → attention output (N, H · W) of the queries in `query_blocks`.

    `sinks_H` is one extra score per query head (gpt-oss): it enters the softmax and contributes no value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv_TE: torch.Tensor,
        query_blocks: tuple[QueryBlock, ...],
        heads: Heads,
        sinks_H: torch.Tensor | None,
        count: int,
    ) -> torch.Tensor:
        ctx.query_blocks, ctx.heads, ctx.sinks_H = query_blocks, heads, sinks_H
        ctx.save_for_backward(qkv_TE)
        out_NE = qkv_TE.new_zeros((count, heads.queries * heads.width))
        parts = _split(_in_dtype_of(query_blocks, qkv_TE), heads)
        for block in query_blocks:
            _attend(parts, block, heads, sinks_H, out_NE)
        return out_NE

    @staticmethod
    def backward(ctx: Any, dout_NE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (saved_TE,) = ctx.saved_tensors
        qkv_TE, dout_NE = (_in_dtype_of(ctx.query_blocks, each) for each in (saved_TE, dout_NE))
        dqkv_TE = torch.zeros_like(qkv_TE)
        parts, dparts = (_split(each, ctx.heads) for each in (qkv_TE, dqkv_TE))
        for block in ctx.query_blocks:
            _attend_backward(parts, dout_NE, block, ctx.heads, ctx.sinks_H, dparts)
        return dqkv_TE.to(saved_TE.dtype), None, None, None, None


def _in_dtype_of(query_blocks: Sequence[QueryBlock], x_TE: torch.Tensor) -> torch.Tensor:
    return x_TE.to(query_blocks[0].mask_1QK.dtype) if query_blocks else x_TE


def _split(qkv_TE: torch.Tensor, heads: Heads) -> Parts:
    """H are the key heads."""
    parts_HTW = qkv_TE.unflatten(-1, (-1, heads.width)).transpose(0, 1)
    q_HTW, k_HTW, v_HTW = parts_HTW.split((heads.queries, heads.keys, heads.keys))
    return q_HTW.unflatten(0, (heads.keys, -1)), k_HTW, v_HTW


def _gather(x_HTW: torch.Tensor, block: QueryBlock) -> torch.Tensor:
    """Keys or values that the block attends to, in the order of the text: (H, K, W)."""
    own = x_HTW[:, block.segment.start : block.stop]
    if not block.segment.before:
        return own
    return torch.cat([*(x_HTW[:, start:end] for start, end in block.segment.before), own], dim=1)


def _weights(
    q_HQW: torch.Tensor, k_HKW: torch.Tensor, block: QueryBlock, heads: Heads, sinks_H: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of the masked scores, (H, G · Q, K), and the derivative of the soft cap if there is one.

    Without a soft cap, one baddbmm multiplies, scales and masks.
    """
    mask_HQK, slope_HQK = block.mask_1QK.expand(heads.keys, -1, -1), None
    if heads.softcap:
        capped_HQK = torch.bmm(q_HQW, k_HKW.transpose(1, 2)).mul_(heads.scale / heads.softcap).tanh_()
        slope_HQK = 1 - capped_HQK.square()
        scores_HQK = torch.add(mask_HQK, capped_HQK, alpha=heads.softcap)
    else:
        scores_HQK = torch.baddbmm(mask_HQK, q_HQW, k_HKW.transpose(1, 2), alpha=heads.scale)
    if sinks_H is None:
        return torch.softmax(scores_HQK, dim=-1), slope_HQK
    sinks_HQ1 = sinks_H.to(scores_HQK.dtype).view(heads.keys, -1, 1).repeat_interleave(block.count, dim=1)
    return torch.softmax(torch.cat([scores_HQK, sinks_HQ1], dim=-1), dim=-1)[..., :-1].contiguous(), slope_HQK


def _attend(parts: Parts, block: QueryBlock, heads: Heads, sinks_H: torch.Tensor | None, out_NE: torch.Tensor) -> None:
    q_HGTW, k_HTW, v_HTW = parts
    q_HQW = q_HGTW[:, :, block.rows].flatten(1, 2)
    weights_HQK, _ = _weights(q_HQW, _gather(k_HTW, block), block, heads, sinks_H)
    out_HGQW = torch.bmm(weights_HQK, _gather(v_HTW, block)).unflatten(1, (-1, block.count))
    out_NE[block.out].unflatten(-1, (heads.keys, -1, heads.width)).copy_(out_HGQW.permute(2, 0, 1, 3))


def _attend_backward(
    parts: Parts,
    dout_NE: torch.Tensor,
    block: QueryBlock,
    heads: Heads,
    sinks_H: torch.Tensor | None,
    dparts: Parts,
) -> None:
    """Write or add the gradients of the block's queries, keys and values to `dparts`."""
    (q_HGTW, k_HTW, v_HTW), (dq_HGTW, dk_HTW, dv_HTW) = parts, dparts
    q_HQW = q_HGTW[:, :, block.rows].flatten(1, 2)
    k_HKW, v_HKW = _gather(k_HTW, block), _gather(v_HTW, block)
    weights_HQK, slope_HQK = _weights(q_HQW, k_HKW, block, heads, sinks_H)
    dout_HQW = dout_NE[block.out].unflatten(-1, (heads.keys, -1, heads.width)).permute(1, 2, 0, 3).flatten(1, 2)
    _scatter(torch.bmm(weights_HQK.transpose(1, 2), dout_HQW), block, dv_HTW)
    dweights_HQK = torch.bmm(dout_HQW, v_HKW.transpose(1, 2))
    # the formula also holds with sinks, whose weight is dropped after the softmax
    dscores_HQK = torch.ops.aten._softmax_backward_data(dweights_HQK, weights_HQK, -1, weights_HQK.dtype)
    if slope_HQK is not None:
        dscores_HQK.mul_(slope_HQK)
    dq_HQW = torch.baddbmm(q_HQW, dscores_HQK, k_HKW, beta=0, alpha=heads.scale)
    dq_HGTW[:, :, block.rows] = dq_HQW.unflatten(1, (-1, block.count))
    _scatter(torch.baddbmm(k_HKW, dscores_HQK.transpose(1, 2), q_HQW, beta=0, alpha=heads.scale), block, dk_HTW)


def _scatter(dx_HKW: torch.Tensor, block: QueryBlock, out_HTW: torch.Tensor) -> None:
    """Add the gradient of gathered keys or values to their original places."""
    place = 0
    for start, end in (*block.segment.before, (block.segment.start, block.stop)):
        out_HTW[:, start:end] += dx_HKW[:, place : place + end - start]
        place += end - start
