"""Causal attention over packed rows, forward and backward written out.

Rows lie behind each other without padding. A `Segment` is a run of tokens that attend to themselves causally and to
whole earlier runs (`before`): so rows of a batch share their common beginning, and the candidate answers of a row
share its prompt. The scores are made again in the backward instead of being kept, so memory grows with the longest
segment, not with the number of layers.

torch's scaled_dot_product_attention is not used: its CPU backward took a quarter of a step (docs/LOG.md).

Axes: T token · Q query · K key · H head · G query heads for each key head · W head width.
"""

from __future__ import annotations

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


class Attention(torch.autograd.Function):
    """(T, (H + 2K) · W) stacked queries, keys and values → (T, H · W). Turns queries and keys in place."""

    @staticmethod
    def forward(ctx: Any, qkv_TE: torch.Tensor, turn_TW: torch.Tensor, segments: tuple[Segment, ...],
                heads: Heads) -> torch.Tensor:
        turned_THW = qkv_TE[:, : (heads.queries + heads.keys) * heads.width].unflatten(-1, (-1, heads.width))
        rotate(turned_THW, turn_TW)
        ctx.segments, ctx.heads = segments, heads
        ctx.save_for_backward(qkv_TE, turn_TW)
        out_TE = qkv_TE.new_empty((qkv_TE.shape[0], heads.queries * heads.width))
        for segment in segments:
            _attend(qkv_TE, segment, heads, out_TE)
        return out_TE

    @staticmethod
    def backward(ctx: Any, dout_TE: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        qkv_TE, turn_TW = ctx.saved_tensors
        heads: Heads = ctx.heads
        dqkv_TE = torch.zeros_like(qkv_TE)
        for segment in ctx.segments:
            _attend_backward(qkv_TE, dout_TE, segment, heads, dqkv_TE)
        rotate(dqkv_TE[:, : (heads.queries + heads.keys) * heads.width].unflatten(-1, (-1, heads.width)), turn_TW, back=True)
        return dqkv_TE, None, None, None


def _split(qkv_TE: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views: queries (H, G, T, W), keys and values (H, T, W), H being the key heads."""
    parts_HTW = qkv_TE.unflatten(-1, (-1, heads.width)).transpose(0, 1)
    q_HTW, k_HTW, v_HTW = parts_HTW.split((heads.queries, heads.keys, heads.keys))
    return q_HTW.unflatten(0, (heads.keys, -1)), k_HTW, v_HTW


def _gather(x_HTW: torch.Tensor, segment: Segment, stop: int) -> torch.Tensor:
    """Keys or values that the segment's tokens before `stop` see, in the order of the text: (H, K, W)."""
    own = x_HTW[:, segment.start : stop]
    if not segment.before:
        return own
    return torch.cat([*(x_HTW[:, start:end] for start, end in segment.before), own], dim=1)


def _weights(q_HQW: torch.Tensor, k_HKW: torch.Tensor, groups: int, scale: float) -> torch.Tensor:
    """Softmax of the causal scores, (H, G · Q, K): the last Q keys are the queries' own places."""
    scores_HQK = torch.bmm(q_HQW, k_HKW.transpose(1, 2)).mul_(scale)
    queries, keys = q_HQW.shape[1] // groups, k_HKW.shape[1]
    if queries > 1:
        later_QQ = torch.ones(queries, queries, dtype=torch.bool, device=q_HQW.device).triu_(1)
        own_HGQQ = scores_HQK.unflatten(1, (groups, queries))[..., keys - queries :]
        own_HGQQ.masked_fill_(later_QQ, float("-inf"))
    return torch.softmax(scores_HQK, dim=-1)


def _pieces(segment: Segment) -> list[tuple[int, int]]:
    return [(start, min(start + QUERIES_AT_ONCE, segment.stop)) for start in range(segment.start, segment.stop, QUERIES_AT_ONCE)]


def _attend(qkv_TE: torch.Tensor, segment: Segment, heads: Heads, out_TE: torch.Tensor) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    groups = heads.queries // heads.keys
    for start, stop in _pieces(segment):
        q_HQW = q_HGTW[:, :, start:stop].flatten(1, 2)
        weights_HQK = _weights(q_HQW, _gather(k_HTW, segment, stop), groups, heads.scale)
        out_HGQW = torch.bmm(weights_HQK, _gather(v_HTW, segment, stop)).unflatten(1, (groups, stop - start))
        out_TE[start:stop].unflatten(-1, (heads.keys, groups, heads.width)).copy_(out_HGQW.permute(2, 0, 1, 3))


def _attend_backward(qkv_TE: torch.Tensor, dout_TE: torch.Tensor, segment: Segment, heads: Heads,
                     dqkv_TE: torch.Tensor) -> None:
    q_HGTW, k_HTW, v_HTW = _split(qkv_TE, heads)
    dq_HGTW, dk_HTW, dv_HTW = _split(dqkv_TE, heads)
    groups = heads.queries // heads.keys
    for start, stop in _pieces(segment):
        q_HQW = q_HGTW[:, :, start:stop].flatten(1, 2)
        k_HKW, v_HKW = _gather(k_HTW, segment, stop), _gather(v_HTW, segment, stop)
        weights_HQK = _weights(q_HQW, k_HKW, groups, heads.scale)
        dout_HQW = dout_TE[start:stop].unflatten(-1, (heads.keys, groups, heads.width)).permute(1, 2, 0, 3).flatten(1, 2)
        _scatter(torch.bmm(weights_HQK.transpose(1, 2), dout_HQW), segment, stop, dv_HTW)
        dweights_HQK = torch.bmm(dout_HQW, v_HKW.transpose(1, 2))
        dscores_HQK = torch.ops.aten._softmax_backward_data(dweights_HQK, weights_HQK, -1, weights_HQK.dtype)
        dscores_HQK.mul_(heads.scale)
        dq_HGTW[:, :, start:stop] += torch.bmm(dscores_HQK, k_HKW).unflatten(1, (groups, stop - start))
        _scatter(torch.bmm(dscores_HQK.transpose(1, 2), q_HQW), segment, stop, dk_HTW)


def _scatter(dx_HKW: torch.Tensor, segment: Segment, stop: int, out_HTW: torch.Tensor) -> None:
    """Add the gradient of gathered keys or values to the places they came from."""
    place = 0
    for start, end in (*segment.before, (segment.start, stop)):
        out_HTW[:, start:end] += dx_HKW[:, place : place + end - start]
        place += end - start
