"""Linear attention by the gated delta rule (Yang et al., arXiv 2412.06464), as Qwen 3.5 and Qwen 3 Next have it.

A head keeps a matrix S. A token first lets it fade, then corrects what its key finds there towards its value, then
reads it with its query:

    S = exp(g) S;  S = S + β k (v - k S)ᵀ;  o = q S / √W

Chunks of tokens are computed at once by solving the triangular system of their corrections. A segment goes on with the
state in which the text before it left, so rows share the state behind their common beginning.

Axes: T token · N wanted place · H value head · G key head · W head width · C token of a chunk · E stacked widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from .attention import Segment
from .config import GatedDeltaNetConfig
from .convolution import convolve
from .forward_context import ForwardContext, stacked
from .linear import FusedLinear
from .norm import Norm, Normed

CHUNK = 64


@dataclass(frozen=True)
class DeltaNet:
    """`inner` makes queries, keys and values (convolved together), the gate of the output, β and the fading, in the
    order of `spec.Delta`."""

    delta: GatedDeltaNetConfig
    norm: Norm | None
    inner: FusedLinear
    taps_EK: torch.Tensor
    fading_H: torch.Tensor
    step_bias_H: torch.Tensor
    head_norm: Norm

    def mix(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """The heads' outputs beside each other (T, H · W), or at the wanted places (N, H · W)."""
        inner_TE = stacked(x_TD, self.norm, self.inner, flow)
        if torch.is_grad_enabled():  # the states of all chunks are made again in the backward instead of being kept
            out_THW = checkpoint(self._read, inner_TE, flow, use_reentrant=False)
        else:
            out_THW = self._read(inner_TE, flow)
        gate_TE = self._parts(inner_TE)[1]
        normed_THW = Normed.apply(flow.wanted(out_THW), self.head_norm, torch.float32)
        gated_NE = normed_THW.flatten(-2) * torch.nn.functional.silu(flow.wanted(gate_TE).float())
        return gated_NE.to(flow.dtype)

    def _parts(self, inner_TE: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values; gate; β before its sigmoid and the step before its softplus, (T, H) each."""
        delta = self.delta
        if not delta.joined:
            return inner_TE.split((delta.convolved, delta.values * delta.width, delta.values, delta.values), dim=-1)
        qkv_TE, gate_TE, both_TE = inner_TE.split(
            (delta.convolved, delta.values * delta.width, 2 * delta.values), dim=-1
        )
        beta_TGR, step_TGR = both_TE.unflatten(-1, (delta.keys, -1)).chunk(2, dim=-1)
        return qkv_TE, gate_TE, beta_TGR.flatten(-2), step_TGR.flatten(-2)

    def _read(self, inner_TE: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """What each token's queries find, float32 (T, H, W)."""
        delta = self.delta
        qkv_TE, _, beta_TH, step_TH = self._parts(inner_TE)
        qkv_TE = torch.nn.functional.silu(convolve(qkv_TE, self.taps_EK, flow.before_TK))
        parts_THW = qkv_TE.unflatten(-1, (-1, delta.width))
        q_TGW, k_TGW, v_THW = parts_THW.split((delta.keys, delta.keys, delta.values), dim=1)
        q_THW, k_THW = (self._for_each_value(_unit(x_TGW, self.head_norm.epsilon)) for x_TGW in (q_TGW, k_TGW))
        fade_TH = torch.nn.functional.softplus(step_TH.float() + self.step_bias_H) * self.fading_H
        return gated_delta_rule(
            q_THW * delta.width**-0.5, k_THW, v_THW, torch.sigmoid(beta_TH.float()), fade_TH, flow.segments
        )

    def _for_each_value(self, x_TGW: torch.Tensor) -> torch.Tensor:
        """Key heads repeated for the value heads: each one for its neighbours, or all of them again and again."""
        times = self.delta.values // self.delta.keys
        return x_TGW.repeat_interleave(times, dim=1) if self.delta.neighbours else x_TGW.repeat(1, times, 1)


def _unit(x_THW: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Vectors of length 1 (ggml_l2_norm)."""
    return x_THW / torch.linalg.vector_norm(x_THW, dim=-1, keepdim=True).clamp(min=epsilon)


def gated_delta_rule(
    q_THW: torch.Tensor,
    k_THW: torch.Tensor,
    v_THW: torch.Tensor,
    beta_TH: torch.Tensor,
    fade_TH: torch.Tensor,
    segments: Sequence[Segment],
) -> torch.Tensor:
    """What the queries of each token find in the state that its text has built up, (T, H, W). All are float32.

    Segments lie behind each other; tokens behind the last of them belong to no text and find nothing.
    """
    heads_first = [x.transpose(0, 1) for x in (q_THW, k_THW, v_THW, beta_TH.unsqueeze(-1), fade_TH)]
    wanted = {segment.before[-1] for segment in segments if segment.before}
    states: dict[tuple[int, int], torch.Tensor] = {}
    out_THW = []
    for segment in segments:
        if segment.start == segment.stop:
            continue
        state_HWW = states[segment.before[-1]] if segment.before else q_THW.new_zeros(_state_shape(q_THW))
        start = segment.start
        for stop in sorted({segment.stop, *(end for begin, end in wanted if begin == segment.start)}):
            for first in range(start, stop, CHUNK):
                last = min(first + CHUNK, stop)
                out_HCW, state_HWW = _chunk(state_HWW, *(x[:, first:last] for x in heads_first))
                out_THW.append(out_HCW.transpose(0, 1))
            start = stop
            states[segment.start, stop] = state_HWW
    return torch.cat([*out_THW, torch.zeros_like(q_THW[segments[-1].stop :])])


def _state_shape(q_THW: torch.Tensor) -> tuple[int, int, int]:
    return (q_THW.shape[1], q_THW.shape[2], q_THW.shape[2])


def _chunk(
    state_HWW: torch.Tensor,
    q_HCW: torch.Tensor,
    k_HCW: torch.Tensor,
    v_HCW: torch.Tensor,
    beta_HC1: torch.Tensor,
    fade_HC: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a chunk and the state behind it."""
    faded_HC1 = fade_HC.cumsum(-1).unsqueeze(-1)
    # what is left of token j when token i looks, (H, C, C); above the diagonal it is never looked at
    left_HCC = (faded_HC1 - faded_HC1.transpose(1, 2)).tril().exp().tril()
    among_HCC = (torch.bmm(k_HCW * beta_HC1, k_HCW.transpose(1, 2)) * left_HCC).tril(-1)
    right_HCW = (v_HCW - torch.bmm(k_HCW * faded_HC1.exp(), state_HWW)) * beta_HC1
    new_HCW = torch.linalg.solve_triangular(among_HCC, right_HCW, upper=False, unitriangular=True)
    seen_HCC = torch.bmm(q_HCW, k_HCW.transpose(1, 2)) * left_HCC
    out_HCW = torch.baddbmm(torch.bmm(seen_HCC, new_HCW), q_HCW * faded_HC1.exp(), state_HWW)
    end_H11 = faded_HC1[:, -1:]
    kept_HCW = k_HCW * (end_H11 - faded_HC1).exp()
    return out_HCW, torch.baddbmm(state_HWW * end_H11.exp(), kept_HCW.transpose(1, 2), new_HCW)
