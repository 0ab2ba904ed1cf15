"""One decoder block: a mixer over the tokens, then a feed-forward, each added to the residual stream.

Axes: T token · N wanted place · D model width · F inner width · P per-layer embedding · K experts of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from .config import ModelConfig
from .experts import Mixture, MoEFunction
from .feed_forward import ActivatedLinear, Activation
from .forward_context import ForwardContext, norm_linear, post_norm
from .linear import FusedLinear, Linear
from .norm import ApplyNorm, Norm


class Mixer(Protocol):
    """Attention, linear attention or convolution: returns the output projection's input at the wanted places."""

    def mix(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor: ...


@dataclass(frozen=True)
class Dense:
    """Feed-forward network: gate and up projections fused, activation, down projection."""

    gate_up: FusedLinear
    down: FusedLinear
    activation: Activation


@dataclass(frozen=True)
class FeedForward:
    """A dense network, a mixture of experts, or both: then the dense network is the shared expert.

    `norm` comes before everything; `expert_norm` and `router_norm` replace it for experts and router. Two
    more norms are applied to the outputs. `shared_gate_D` gates the shared expert per token.
    """

    norm: Norm | None
    dense: Dense | None
    mixture: Mixture | None
    shared_gate_D: torch.Tensor | None
    expert_norm: Norm | None
    router_norm: Norm | None
    dense_post_norm: Norm | None
    mixture_post_norm: Norm | None

    def forward(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """(T, D) → (T, D)."""
        if self.mixture is None:
            assert self.dense is not None
            return _down_projection(norm_linear(x_TD, self.norm, self.dense.gate_up, context), self.dense, context)
        normed_TD = post_norm(x_TD, self.norm)
        expert_TD = normed_TD if self.expert_norm is None else ApplyNorm.apply(x_TD, self.expert_norm, torch.float32)
        router_TD = normed_TD if self.router_norm is None else ApplyNorm.apply(x_TD, self.router_norm, torch.float32)
        weights_TK, chosen_TK = self.mixture.choose(router_TD)
        out_TD = MoEFunction.apply(expert_TD.to(context.dtype), weights_TK, chosen_TK, self.mixture)
        out_TD = post_norm(out_TD, self.mixture_post_norm)
        if self.dense is None:
            return out_TD
        shared_TD = _down_projection(norm_linear(normed_TD, None, self.dense.gate_up, context), self.dense, context)
        if self.shared_gate_D is not None:
            shared_TD = shared_TD * torch.sigmoid(normed_TD @ self.shared_gate_D).unsqueeze(-1)
        return out_TD + post_norm(shared_TD, self.dense_post_norm)


def _down_projection(inner_TF: torch.Tensor, dense: Dense, context: ForwardContext) -> torch.Tensor:
    return ActivatedLinear.apply(inner_TF, context.anchor, dense.activation, dense.down)


@dataclass(frozen=True)
class PerLayerInput:
    """Adds a layer's own token embedding (Gemma's per-layer embeddings), gated by the residual stream."""

    index: int
    gate: FusedLinear
    output: FusedLinear
    norm: Norm
    activation: Activation

    def forward(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """(T, D) → (T, D)."""
        assert context.per_layer_TLP is not None
        gate_TP = self.activation.value(norm_linear(x_TD, None, self.gate, context).float())
        gated_TP = gate_TP * context.wanted(context.per_layer_TLP[:, self.index])
        return ApplyNorm.apply(norm_linear(gated_TP, None, self.output, context), self.norm, torch.float32)


@dataclass(frozen=True)
class Block:
    """Mixer, feed-forward and their post norms; `out_scale` multiplies the block's output."""

    mixer: Mixer
    output: FusedLinear
    mixer_post_norm: Norm | None
    feed_forward: FeedForward
    feed_forward_post_norm: Norm | None
    per_layer_input: PerLayerInput | None
    config: ModelConfig
    out_scale: float

    def forward(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Residual stream after the block, float32: (T, D), or (N, D) at the wanted places."""
        mixed_TD = Linear.apply(self.mixer.mix(x_TD, context), context.anchor, self.output)
        x_TD = context.wanted(x_TD)
        scale = self.config.residual_scale
        middle_TD = torch.add(x_TD, post_norm(mixed_TD, self.mixer_post_norm), alpha=scale)
        out_TD = self.feed_forward.forward(x_TD if self.config.parallel_residual else middle_TD, context)
        x_TD = torch.add(middle_TD, post_norm(out_TD, self.feed_forward_post_norm), alpha=scale)
        if self.per_layer_input is not None:
            x_TD = x_TD + self.per_layer_input.forward(x_TD, context)
        return x_TD if self.out_scale == 1.0 else x_TD * self.out_scale
