"""Linear attention by the gated delta rule (Yang et al., arXiv 2412.06464), as Qwen 3.5 and Qwen 3 Next have it.

A head keeps a state matrix S. Each token lets it decay by exp(g), corrects the value stored under its key k towards its
value v with step size β, and reads it with its query q:

    S = exp(g) S;  S = S + β k (v - k S)ᵀ;  o = q S / √W

A chunk of tokens is computed at once by solving the triangular system of its corrections. A segment starts from the
state after the text before it, so rows share the state after their common prefix.

Axes: T token · N wanted place · H value head · G key head · R value heads per key head · W head width · C token of a
chunk · E concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from .attention import Segment
from .config import GatedDeltaNetConfig
from .convolution import convolve
from .forward_context import ForwardContext, norm_linear
from .linear import FusedLinear
from .norm import ApplyNorm, Norm

CHUNK = 64


@dataclass(frozen=True)
class DeltaNet:
    """`inner` projects to queries, keys and values (convolved together), output gate, β, decay step, in this order."""

    config: GatedDeltaNetConfig
    norm: Norm | None
    inner: FusedLinear
    kernel_EK: torch.Tensor
    decay_H: torch.Tensor
    step_bias_H: torch.Tensor
    head_norm: Norm

    def mix(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Concatenated outputs of the heads: (T, H · W), or (N, H · W) at the wanted places."""
        inner_TE = norm_linear(x_TD, self.norm, self.inner, context)
        if torch.is_grad_enabled():  # recompute the states of all chunks in the backward pass instead of keeping them
            out_THW = checkpoint(self._read, inner_TE, context, use_reentrant=False)
        else:
            out_THW = self._read(inner_TE, context)
        gate_TE = self._parts(inner_TE)[1]
        normed_THW = ApplyNorm.apply(context.wanted(out_THW), self.head_norm, torch.float32)
        gated_NE = normed_THW.flatten(-2) * torch.nn.functional.silu(context.wanted(gate_TE).float())
        return gated_NE.to(context.dtype)

    def _parts(self, inner_TE: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split into QKV (T, E), gate (T, E), β before the sigmoid and decay step before the softplus, (T, H) each."""
        config = self.config
        gate_width = config.values * config.width
        if not config.fused_beta_alpha:
            return inner_TE.split((config.conv_width, gate_width, config.values, config.values), dim=-1)
        qkv_TE, gate_TE, both_TE = inner_TE.split((config.conv_width, gate_width, 2 * config.values), dim=-1)
        beta_TGR, step_TGR = both_TE.unflatten(-1, (config.keys, -1)).chunk(2, dim=-1)
        return qkv_TE, gate_TE, beta_TGR.flatten(-2), step_TGR.flatten(-2)

    def _read(self, inner_TE: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Result of each token's queries, float32 (T, H, W)."""
        config = self.config
        qkv_TE, _, beta_TH, step_TH = self._parts(inner_TE)
        qkv_TE = torch.nn.functional.silu(convolve(qkv_TE, self.kernel_EK, context.before_TK))
        parts_THW = qkv_TE.unflatten(-1, (-1, config.width))
        q_TGW, k_TGW, v_THW = parts_THW.split((config.keys, config.keys, config.values), dim=1)
        q_THW, k_THW = (self._repeat_keys(_unit(x_TGW, self.head_norm.epsilon)) for x_TGW in (q_TGW, k_TGW))
        decay_TH = torch.nn.functional.softplus(step_TH.float() + self.step_bias_H) * self.decay_H
        return gated_delta_rule(
            q_THW * config.width**-0.5, k_THW, v_THW, torch.sigmoid(beta_TH.float()), decay_TH, context.segments
        )

    def _repeat_keys(self, x_TGW: torch.Tensor) -> torch.Tensor:
        """Repeat the key heads for the value heads, (T, H, W)."""
        times = self.config.values // self.config.keys
        if self.config.key_repeat == "interleave":
            return x_TGW.repeat_interleave(times, dim=1)
        return x_TGW.repeat(1, times, 1)


def _unit(x_THW: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalise to length 1 (ggml_l2_norm)."""
    return x_THW / torch.linalg.vector_norm(x_THW, dim=-1, keepdim=True).clamp(min=epsilon)


def gated_delta_rule(
    q_THW: torch.Tensor,
    k_THW: torch.Tensor,
    v_THW: torch.Tensor,
    beta_TH: torch.Tensor,
    decay_TH: torch.Tensor,
    segments: Sequence[Segment],
) -> torch.Tensor:
    """Read the state of each token's text with its queries, (T, H, W). All are float32.

    Segments are contiguous; tokens after the last one belong to no text and get 0.
    """
    heads_first = [x.transpose(0, 1) for x in (q_THW, k_THW, v_THW, beta_TH.unsqueeze(-1), decay_TH)]
    continued = {segment.before[-1] for segment in segments if segment.before}
    states: dict[tuple[int, int], torch.Tensor] = {}
    out_THW = []
    _, heads, width = q_THW.shape
    for segment in segments:
        if segment.start == segment.stop:
            continue
        state_HWW = states[segment.before[-1]] if segment.before else q_THW.new_zeros(heads, width, width)
        start = segment.start
        for stop in sorted({segment.stop, *(end for begin, end in continued if begin == segment.start)}):
            for first in range(start, stop, CHUNK):
                last = min(first + CHUNK, stop)
                out_HCW, state_HWW = _chunk(state_HWW, *(x[:, first:last] for x in heads_first))
                out_THW.append(out_HCW.transpose(0, 1))
            start = stop
            states[segment.start, stop] = state_HWW
    return torch.cat([*out_THW, torch.zeros_like(q_THW[segments[-1].stop :])])


def _chunk(
    state_HWW: torch.Tensor,
    q_HCW: torch.Tensor,
    k_HCW: torch.Tensor,
    v_HCW: torch.Tensor,
    beta_HC1: torch.Tensor,
    decay_HC: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a chunk and the state after it."""
    log_decay_HC1 = decay_HC.cumsum(-1).unsqueeze(-1)
    # decay of token j as seen from token i, (H, C, C); the upper triangle is never used
    decayed_HCC = (log_decay_HC1 - log_decay_HC1.transpose(1, 2)).tril().exp().tril()
    corrections_HCC = (torch.bmm(k_HCW * beta_HC1, k_HCW.transpose(1, 2)) * decayed_HCC).tril(-1)
    right_HCW = (v_HCW - torch.bmm(k_HCW * log_decay_HC1.exp(), state_HWW)) * beta_HC1
    new_HCW = torch.linalg.solve_triangular(corrections_HCC, right_HCW, upper=False, unitriangular=True)
    scores_HCC = torch.bmm(q_HCW, k_HCW.transpose(1, 2)) * decayed_HCC
    out_HCW = torch.baddbmm(torch.bmm(scores_HCC, new_HCW), q_HCW * log_decay_HC1.exp(), state_HWW)
    end_H11 = log_decay_HC1[:, -1:]
    kept_HCW = k_HCW * (end_H11 - log_decay_HC1).exp()
    return out_HCW, torch.baddbmm(state_HWW * end_H11.exp(), kept_HCW.transpose(1, 2), new_HCW)
