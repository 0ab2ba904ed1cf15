"""Causal attention over packed rows, forward and backward written out.

Rows lie behind each other without padding. A `Segment` is a run of tokens that attend to themselves causally and to
whole earlier runs (`before`): so rows of a batch share their common beginning, and the candidate answers of a row
share its prompt. The scores are made again in the backward instead of being kept, so memory grows with the longest
segment, not with the number of layers.

torch's scaled_dot_product_attention is not used: its CPU backward took a quarter of a step (docs/LOG.md).

Axes: T token · Q query · K key · H head · G query heads for each key head · W head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

QUERIES_AT_ONCE = 512  # bounds the scores held at once to heads · 512 · keys


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack; `before` are the runs that come before them in their text."""

    start: int
    stop: int
    before: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Heads:
    """The shape of the attention: query heads, key heads, width of a head, scale of the scores."""

    queries: int
    keys: int
    width: int
    scale: float


def rotate(x_THW: torch.Tensor, turn_TW: torch.Tensor, *, back: bool = False) -> None:
    """Turn neighbouring pairs of each head in place (interleaved RoPE: the row order of llama-family GGUFs).

    `turn_TW` is complex64 (T, W / 2). Turning back is the gradient.
    """
    pairs = torch.view_as_complex(x_THW.float().unflatten(-1, (-1, 2)))
    turned = pairs * (turn_TW.conj() if back else turn_TW).unsqueeze(1)
    x_THW.copy_(torch.view_as_real(turned).flatten(-2))


@dataclass(frozen=True)
class _Piece:
    """Queries that are computed together: their rows in the pack and in the output, and the keys they may see.

    Of the segment's own keys (up to `stop`) `later_QK` marks those behind each query; None where there are none.
    """

    segment: Segment
    rows: slice | torch.Tensor
    out: slice
    stop: int
    later_QK: torch.Tensor | None

    @property
    def count(self) -> int:
        return self.out.stop - self.out.start


def _pieces(segments: tuple[Segment, ...], wanted_N: torch.Tensor | None, device: torch.device) -> Iterator[_Piece]:
    """All tokens as queries, or only the `wanted_N` (sorted places in the pack, on the CPU)."""
    done = 0
    for segment in segments:
        if wanted_N is None:
            starts = range(segment.start, segment.stop, QUERIES_AT_ONCE)
            runs = [torch.arange(start, min(start + QUERIES_AT_ONCE, segment.stop)) for start in starts]
        else:
            runs = list(wanted_N[(wanted_N >= segment.start) & (wanted_N < segment.stop)].split(QUERIES_AT_ONCE))
        for run_Q in runs:
            if len(run_Q) == 0:
                continue
            first, stop = int(run_Q[0]), int(run_Q[-1]) + 1
            rows = slice(first, stop) if stop - first == len(run_Q) else run_Q.to(device)
            later_QK = (torch.arange(segment.start, stop) > run_Q.unsqueeze(-1)).to(device) if stop - segment.start > 1 else None
            yield _Piece(segment, rows, slice(done, done + len(run_Q)), stop, later_QK)
            done += len(run_Q)


class Attention(torch.autograd.Function):
    """(T, (H + 2K) · W) stacked queries, keys and values → (N, H · W) for the wanted places, or for all.

    Turns queries and keys in place: nothing else needs them as they were.
    """

    @staticmethod
    def forward(ctx: Any, qkv_TE: torch.Tensor, turn_TW: torch.Tensor, segments: tuple[Segment, ...], heads: Heads,
                wanted_N: torch.Tensor | None) -> torch.Tensor:
        rotate(qkv_TE[:, : (heads.queries + heads.keys) * heads.width].unflatten(-1, (-1, heads.width)), turn_TW)
        ctx.segments, ctx.heads, ctx.wanted_N = segments, heads, wanted_N
        ctx.save_for_backward(qkv_TE, turn_TW)
        count = qkv_TE.shape[0] if wanted_N is None else len(wanted_N)
        out_NE = qkv_TE.new_empty((count, heads.queries * heads.width))
        for piece in _pieces(segments, wanted_N, qkv_TE.device):
            _attend(qkv_TE, piece, heads, out_NE)
        return out_NE

    @staticmethod
    def backward(ctx: Any, dout_NE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        qkv_TE, turn_TW = ctx.saved_tensors
        heads: Heads = ctx.heads
        dqkv_TE = torch.zeros_like(qkv_TE)
        for piece in _pieces(ctx.segments, ctx.wanted_N, qkv_TE.device):
            _attend_backward(qkv_TE, dout_NE, piece, heads, dqkv_TE)
        rotate(dqkv_TE[:, : (heads.queries + heads.keys) * heads.width].unflatten(-1, (-1, heads.width)), turn_TW, back=True)
        return dqkv_TE, None, None, None, None


def _split(qkv_TE: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views: queries (H, G, T, W), keys and values (H, T, W), H being the key heads."""
    parts_HTW = qkv_TE.unflatten(-1, (-1, heads.width)).transpose(0, 1)
    q_HTW, k_HTW, v_HTW = parts_HTW.split((heads.queries, heads.keys, heads.keys))
    return q_HTW.unflatten(0, (heads.keys, -1)), k_HTW, v_HTW


def _gather(x_HTW: torch.Tensor, piece: _Piece) -> torch.Tensor:
    """Keys or values that the piece sees, in the order of the text: (H, K, W)."""
    own = x_HTW[:, piece.segment.start : piece.stop]
    if not piece.segment.before:
        return own
    return torch.cat([*(x_HTW[:, start:end] for start, end in piece.segment.before), own], dim=1)


def _weights(q_HQW: torch.Tensor, k_HKW: torch.Tensor, piece: _Piece, heads: Heads) -> torch.Tensor:
    """Softmax of the causal scores, (H, G · Q, K): the last keys are the segment's own."""
    scores_HQK = torch.bmm(q_HQW, k_HKW.transpose(1, 2)).mul_(heads.scale)
    if piece.later_QK is not None:
        own_HGQK = scores_HQK.unflatten(1, (-1, piece.count))[..., k_HKW.shape[1] - piece.later_QK.shape[1] :]
        own_HGQK.masked_fill_(piece.later_QK, float("-inf"))
    return torch.softmax(scores_HQK, dim=-1)


def _attend(qkv_TE: torch.Tensor, piece: _Piece, heads: Heads, out_NE: torch.Tensor) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    weights_HQK = _weights(q_HGTW[:, :, piece.rows].flatten(1, 2), _gather(k_HTW, piece), piece, heads)
    out_HGQW = torch.bmm(weights_HQK, _gather(v_HTW, piece)).unflatten(1, (-1, piece.count))
    out_NE[piece.out].unflatten(-1, (heads.keys, -1, heads.width)).copy_(out_HGQW.permute(2, 0, 1, 3))


def _attend_backward(qkv_TE: torch.Tensor, dout_NE: torch.Tensor, piece: _Piece, heads: Heads,
                     dqkv_TE: torch.Tensor) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    dq_HGTW, dk_HTW, dv_HTW = _split(dqkv_TE, heads)
    q_HQW = q_HGTW[:, :, piece.rows].flatten(1, 2)
    k_HKW, v_HKW = _gather(k_HTW, piece), _gather(v_HTW, piece)
    weights_HQK = _weights(q_HQW, k_HKW, piece, heads)
    dout_HQW = dout_NE[piece.out].unflatten(-1, (heads.keys, -1, heads.width)).permute(1, 2, 0, 3).flatten(1, 2)
    _scatter(torch.bmm(weights_HQK.transpose(1, 2), dout_HQW), piece, dv_HTW)
    dweights_HQK = torch.bmm(dout_HQW, v_HKW.transpose(1, 2))
    dscores_HQK = torch.ops.aten._softmax_backward_data(dweights_HQK, weights_HQK, -1, weights_HQK.dtype)
    dscores_HQK.mul_(heads.scale)
    dq_HGTW[:, :, piece.rows] += torch.bmm(dscores_HQK, k_HKW).unflatten(1, (-1, piece.count))
    _scatter(torch.bmm(dscores_HQK.transpose(1, 2), q_HQW), piece, dk_HTW)


def _scatter(dx_HKW: torch.Tensor, piece: _Piece, out_HTW: torch.Tensor) -> None:
    """Add the gradient of gathered keys or values to the places they came from."""
    place = 0
    for start, end in (*piece.segment.before, (piece.segment.start, piece.stop)):
        out_HTW[:, start:end] += dx_HKW[:, place : place + end - start]
        place += end - start
