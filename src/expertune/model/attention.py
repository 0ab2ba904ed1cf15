"""Causal attention over packed rows, forward and backward written out.

Rows lie behind each other without padding. A `Segment` is a run of tokens that attend to themselves causally and to
whole earlier runs (`before`): so rows of a batch share their common beginning, and the candidate answers of a row
share its prompt. The scores are made again in the backward instead of being kept, so memory grows with the longest
segment, not with the number of layers.

torch's scaled_dot_product_attention is not used: its CPU backward took a quarter of a step (docs/LOG.md).

Axes: T token · Q query · K key · H head · G query heads for each key head · W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .config import Heads

QUERIES_AT_ONCE = 512  # bounds the scores held at once to heads · 512 · keys


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack; `before` are the runs that come before them in their text."""

    start: int
    stop: int
    before: tuple[tuple[int, int], ...] = ()


class ApplyRotary(torch.autograd.Function):
    """Rotary positions on the first `heads` heads of (T, E), in place: nothing else needs them as they were.

    `turn_TF` is complex64 (T, F). Turning back is the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TE: torch.Tensor, turn_TF: torch.Tensor, heads: int, width: int, halves: bool
    ) -> torch.Tensor:
        ctx.turned = heads, width, halves
        ctx.save_for_backward(turn_TF)
        ctx.mark_dirty(x_TE)
        rotate(x_TE[:, : heads * width].unflatten(-1, (-1, width)), turn_TF, halves=halves)
        return x_TE

    @staticmethod
    def backward(ctx: Any, dx_TE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        heads, width, halves = ctx.turned
        dx_TE = dx_TE.clone()
        rotate(dx_TE[:, : heads * width].unflatten(-1, (-1, width)), ctx.saved_tensors[0].conj(), halves=halves)
        return dx_TE, None, None, None, None


def rotate(x_THW: torch.Tensor, turn_TF: torch.Tensor, *, halves: bool) -> None:
    """Turn the first F pairs of each head in place (see spec.Rope)."""
    part_THW = x_THW[..., : 2 * turn_TF.shape[-1]]
    turn_T1F = turn_TF.unsqueeze(1)
    if halves:
        first_THF, second_THF = part_THW.chunk(2, dim=-1)
        turned_THF = torch.complex(first_THF.float(), second_THF.float()).mul_(turn_T1F)
        first_THF.copy_(turned_THF.real)
        second_THF.copy_(turned_THF.imag)
        return
    turned_THF = torch.view_as_complex(part_THW.float().unflatten(-1, (-1, 2))) * turn_T1F
    part_THW.copy_(torch.view_as_real(turned_THF).flatten(-2))


@dataclass(frozen=True)
class Piece:
    """Queries that are computed together: their rows in the pack and in the output, and the keys they see.

    Those are the runs before the segment and the segment's own up to `stop`; `mask_1QK` is -inf at own keys behind a
    query and at keys before its window, 0 elsewhere, for all query heads of a key head below each other.
    """

    segment: Segment
    rows: slice | torch.Tensor
    out: slice
    stop: int
    mask_1QK: torch.Tensor

    @property
    def count(self) -> int:
        return self.out.stop - self.out.start


def pieces_of(
    segments: Sequence[Segment],
    wanted_N: torch.Tensor | None,
    heads: Heads,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Piece, ...]:
    """All tokens as queries, or only the `wanted_N` (sorted places in the pack, on the CPU); for all layers."""
    pieces, done = [], 0
    for segment in segments:
        places = torch.arange(segment.start, segment.stop)
        if wanted_N is not None:
            places = wanted_N[(wanted_N >= segment.start) & (wanted_N < segment.stop)]
        for run_Q in places.split(QUERIES_AT_ONCE):
            if len(run_Q) == 0:
                continue
            first, stop = int(run_Q[0]), int(run_Q[-1]) + 1
            rows = slice(first, stop) if stop - first == len(run_Q) else run_Q.to(device)
            seen = sum(end - start for start, end in segment.before)
            mask_QK = torch.zeros(len(run_Q), seen + stop - segment.start, dtype=dtype)
            ahead_QK = torch.arange(mask_QK.shape[1]) - (run_Q - segment.start + seen).unsqueeze(-1)  # 0: itself
            mask_QK.masked_fill_(ahead_QK > 0, float("-inf"))
            if heads.window:
                mask_QK.masked_fill_(ahead_QK <= -heads.window, float("-inf"))
            mask_1QK = mask_QK.repeat(heads.queries // heads.keys, 1).unsqueeze(0).to(device)
            pieces.append(Piece(segment, rows, slice(done, done + len(run_Q)), stop, mask_1QK))
            done += len(run_Q)
    return tuple(pieces)


class Attention(torch.autograd.Function):
    """(T, (H + 2K) · W) stacked queries, keys and values → (N, H · W) for the wanted places, or for all.

    `sinks_H` is a score for each query head that takes its share of the softmax and gives nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv_TE: torch.Tensor,
        pieces: tuple[Piece, ...],
        heads: Heads,
        sinks_H: torch.Tensor | None,
        count: int,
    ) -> torch.Tensor:
        ctx.pieces, ctx.heads, ctx.sinks_H = pieces, heads, sinks_H
        ctx.save_for_backward(qkv_TE)
        out_NE = qkv_TE.new_zeros((count, heads.queries * heads.width))
        for piece in pieces:
            _attend(qkv_TE, piece, heads, sinks_H, out_NE)
        return out_NE

    @staticmethod
    def backward(ctx: Any, dout_NE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (qkv_TE,) = ctx.saved_tensors
        dqkv_TE = torch.zeros_like(qkv_TE)
        for piece in ctx.pieces:
            _attend_backward(qkv_TE, dout_NE, piece, ctx.heads, ctx.sinks_H, dqkv_TE)
        return dqkv_TE, None, None, None, None


def _split(qkv_TE: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views: queries (H, G, T, W), keys and values (H, T, W), H being the key heads."""
    parts_HTW = qkv_TE.unflatten(-1, (-1, heads.width)).transpose(0, 1)
    q_HTW, k_HTW, v_HTW = parts_HTW.split((heads.queries, heads.keys, heads.keys))
    return q_HTW.unflatten(0, (heads.keys, -1)), k_HTW, v_HTW


def _gather(x_HTW: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Keys or values that the piece sees, in the order of the text: (H, K, W)."""
    own = x_HTW[:, piece.segment.start : piece.stop]
    if not piece.segment.before:
        return own
    return torch.cat([*(x_HTW[:, start:end] for start, end in piece.segment.before), own], dim=1)


def _weights(
    q_HQW: torch.Tensor, k_HKW: torch.Tensor, piece: Piece, heads: Heads, sinks_H: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of the masked scores, (H, G · Q, K), and the slope of the soft cap where there is one.

    Without a cap, scale and mask ride along in the product.
    """
    mask_HQK, slope_HQK = piece.mask_1QK.expand(heads.keys, -1, -1), None
    if heads.cap:
        capped_HQK = torch.bmm(q_HQW, k_HKW.transpose(1, 2)).mul_(heads.scale / heads.cap).tanh_()
        slope_HQK = 1 - capped_HQK.square()
        scores_HQK = torch.add(mask_HQK, capped_HQK, alpha=heads.cap)
    else:
        scores_HQK = torch.baddbmm(mask_HQK, q_HQW, k_HKW.transpose(1, 2), alpha=heads.scale)
    if sinks_H is None:
        return torch.softmax(scores_HQK, dim=-1), slope_HQK
    sinks_HQ1 = sinks_H.to(scores_HQK.dtype).view(heads.keys, -1, 1).repeat_interleave(piece.count, dim=1)
    return torch.softmax(torch.cat([scores_HQK, sinks_HQ1], dim=-1), dim=-1)[..., :-1].contiguous(), slope_HQK


def _attend(
    qkv_TE: torch.Tensor, piece: Piece, heads: Heads, sinks_H: torch.Tensor | None, out_NE: torch.Tensor
) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    q_HQW = q_HGTW[:, :, piece.rows].flatten(1, 2)
    weights_HQK, _ = _weights(q_HQW, _gather(k_HTW, piece), piece, heads, sinks_H)
    out_HGQW = torch.bmm(weights_HQK, _gather(v_HTW, piece)).unflatten(1, (-1, piece.count))
    out_NE[piece.out].unflatten(-1, (heads.keys, -1, heads.width)).copy_(out_HGQW.permute(2, 0, 1, 3))


def _attend_backward(
    qkv_TE: torch.Tensor,
    dout_NE: torch.Tensor,
    piece: Piece,
    heads: Heads,
    sinks_H: torch.Tensor | None,
    dqkv_TE: torch.Tensor,
) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    dq_HGTW, dk_HTW, dv_HTW = _split(dqkv_TE, heads)
    q_HQW = q_HGTW[:, :, piece.rows].flatten(1, 2)
    k_HKW, v_HKW = _gather(k_HTW, piece), _gather(v_HTW, piece)
    weights_HQK, slope_HQK = _weights(q_HQW, k_HKW, piece, heads, sinks_H)
    dout_HQW = dout_NE[piece.out].unflatten(-1, (heads.keys, -1, heads.width)).permute(1, 2, 0, 3).flatten(1, 2)
    _scatter(torch.bmm(weights_HQK.transpose(1, 2), dout_HQW), piece, dv_HTW)
    dweights_HQK = torch.bmm(dout_HQW, v_HKW.transpose(1, 2))
    # a sink's share is only missing from the weights: the formula is the same with it and without
    dscores_HQK = torch.ops.aten._softmax_backward_data(dweights_HQK, weights_HQK, -1, weights_HQK.dtype)
    if slope_HQK is not None:
        dscores_HQK.mul_(slope_HQK)
    dq_HQW = torch.baddbmm(q_HQW, dscores_HQK, k_HKW, beta=0, alpha=heads.scale)
    dq_HGTW[:, :, piece.rows] = dq_HQW.unflatten(1, (-1, piece.count))
    _scatter(torch.baddbmm(k_HKW, dscores_HQK.transpose(1, 2), q_HQW, beta=0, alpha=heads.scale), piece, dk_HTW)


def _scatter(dx_HKW: torch.Tensor, piece: Piece, out_HTW: torch.Tensor) -> None:
    """Add the gradient of gathered keys or values to the places they came from."""
    place = 0
    for start, end in (*piece.segment.before, (piece.segment.start, piece.stop)):
        out_HTW[:, start:end] += dx_HKW[:, place : place + end - start]
        place += end - start
