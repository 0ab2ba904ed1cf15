"""One layer of a decoder: a mixer over the tokens, then a feed-forward, each added to the stream.

Axes: T token · N wanted place · D model width · F inner width · P width of a layer's own input · E expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from .experts import Mixture, MoEFunction
from .feed_forward import ActivatedLinear, Activation
from .forward_context import ForwardContext, behind, stacked
from .linear import FusedLinear, Linear
from .norm import Norm, Normed


class Mixer(Protocol):
    """Brings other tokens' information to each token; what the output layer gets, at the wanted places."""

    def mix(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor: ...


@dataclass(frozen=True)
class Dense:
    """Two products with an activation between them; `gate_up` holds both inputs of a gate, one behind the other."""

    gate_up: FusedLinear
    down: FusedLinear
    activation: Activation


@dataclass(frozen=True)
class FeedForward:
    """A dense network, a mixture of experts, or both: then the dense one is an expert that every token uses.

    `norm` stands before all of it; what experts and router read instead may have norms of its own, as may what either
    gives. `shared_gate_D` weighs the dense one by the token.
    """

    norm: Norm | None
    dense: Dense | None
    mixture: Mixture | None
    shared_gate_D: torch.Tensor | None
    expert_norm: Norm | None
    router_norm: Norm | None
    dense_post_norm: Norm | None
    mixture_post_norm: Norm | None

    def forward(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """(T, D) → (T, D)."""
        if self.mixture is None:
            assert self.dense is not None
            return _down(stacked(x_TD, self.norm, self.dense.gate_up, flow), self.dense, flow)
        normed_TD = behind(x_TD, self.norm)
        expert_TD = normed_TD if self.expert_norm is None else Normed.apply(x_TD, self.expert_norm, torch.float32)
        router_TD = normed_TD if self.router_norm is None else Normed.apply(x_TD, self.router_norm, torch.float32)
        weights_TK, chosen_TK = self.mixture.choose(router_TD)
        out_TD = MoEFunction.apply(expert_TD.to(flow.dtype), weights_TK, chosen_TK, self.mixture)
        out_TD = behind(out_TD, self.mixture_post_norm)
        if self.dense is None:
            return out_TD
        shared_TD = _down(stacked(normed_TD, None, self.dense.gate_up, flow), self.dense, flow)
        if self.shared_gate_D is not None:
            shared_TD = shared_TD * torch.sigmoid(normed_TD @ self.shared_gate_D).unsqueeze(-1)
        return out_TD + behind(shared_TD, self.dense_post_norm)


def _down(inner_TF: torch.Tensor, dense: Dense, flow: ForwardContext) -> torch.Tensor:
    return ActivatedLinear.apply(inner_TF, flow.anchor, dense.activation, dense.down)


@dataclass(frozen=True)
class OwnInput:
    """A layer's own view of the tokens (Gemma's per-layer embeddings), let in by a gate from the stream."""

    index: int
    gate: FusedLinear
    output: FusedLinear
    norm: Norm
    activation: Activation

    def forward(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """(T, D) → (T, D)."""
        assert flow.inputs_TLP is not None
        gate_TP = self.activation.value(stacked(x_TD, None, self.gate, flow).float())
        let_in_TP = gate_TP * flow.wanted(flow.inputs_TLP[:, self.index])
        return Normed.apply(stacked(let_in_TP, None, self.output, flow), self.norm, torch.float32)


@dataclass(frozen=True)
class Block:
    """Mixer, feed-forward and the norms behind them. `parallel`: both read the same stream. `out_scale` is for all."""

    mixer: Mixer
    output: FusedLinear
    mixer_post_norm: Norm | None
    feed_forward: FeedForward
    feed_forward_post_norm: Norm | None
    own_input: OwnInput | None
    parallel: bool
    residual_scale: float
    out_scale: float

    def forward(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """The stream (T, D) behind the block, float32, or its wanted places (N, D)."""
        mixed_TD = Linear.apply(self.mixer.mix(x_TD, flow), flow.anchor, self.output)
        x_TD = flow.wanted(x_TD)
        middle_TD = torch.add(x_TD, behind(mixed_TD, self.mixer_post_norm), alpha=self.residual_scale)
        out_TD = self.feed_forward.forward(x_TD if self.parallel else middle_TD, flow)
        x_TD = torch.add(middle_TD, behind(out_TD, self.feed_forward_post_norm), alpha=self.residual_scale)
        if self.own_input is not None:
            x_TD = x_TD + self.own_input.forward(x_TD, flow)
        return x_TD if self.out_scale == 1.0 else x_TD * self.out_scale
