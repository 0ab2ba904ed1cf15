"""Activations of the feed-forward, with hand-written derivatives. Axes: T token · F inner width · D model width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .linear import FusedLinear

LIMIT, ALPHA = 7.0, 1.702  # swiglu_oai, the activation of gpt-oss: names and values as in its transformers model


@dataclass(frozen=True)
class Activation:
    """`value` of the gate, and `slope`: (gradient of the value, gate) → gradient of the gate.

    With a `limit` above 0 the up projection is clamped to ±limit and 1 is added to it (swiglu_oai).
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    limit: float = 0.0
    gated: bool = True

    def forward(self, inner_TF: torch.Tensor) -> torch.Tensor:
        """Concatenated gate and up projections (T, 2F), or (T, F) without a gate → (T, F)."""
        if not self.gated:
            return self.value(inner_TF)
        gate_TF, up_TF = inner_TF.chunk(2, dim=-1)
        if self.limit:
            up_TF = up_TF.clamp(-self.limit, self.limit).add_(1.0)
        return self.value(gate_TF).mul_(up_TF)

    def backward(self, dh_TF: torch.Tensor, inner_TF: torch.Tensor) -> torch.Tensor:
        """Gradient of the input of `forward`; may overwrite `dh_TF`."""
        if not self.gated:
            return self.slope(dh_TF, inner_TF)
        gate_TF, up_TF = inner_TF.chunk(2, dim=-1)
        dinner_TF = torch.empty_like(inner_TF)
        dgate_TF, dup_TF = dinner_TF.chunk(2, dim=-1)
        torch.mul(dh_TF, self.value(gate_TF), out=dup_TF)
        if self.limit:
            dup_TF.mul_(up_TF.abs() <= self.limit)
            up_TF = up_TF.clamp(-self.limit, self.limit).add_(1.0)
        dgate_TF.copy_(self.slope(dh_TF.mul_(up_TF), gate_TF))
        return dinner_TF


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _swiglu_oai(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(max=LIMIT)
    return torch.sigmoid(ALPHA * x).mul_(x)


def _swiglu_oai_slope(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    cut = x.clamp(max=LIMIT)
    share = torch.sigmoid(ALPHA * cut)
    return dy * share * (1 + ALPHA * cut * (1 - share)) * (x <= LIMIT)


def activation(name: str, *, gated: bool) -> Activation:
    """Activation by name: "silu", "gelu" (tanh form) or "swiglu_oai" (gpt-oss)."""
    value, slope, limit = {
        "silu": (torch.nn.functional.silu, torch.ops.aten.silu_backward, 0.0),
        "gelu": (_gelu, partial(torch.ops.aten.gelu_backward, approximate="tanh"), 0.0),
        "swiglu_oai": (_swiglu_oai, _swiglu_oai_slope, LIMIT),
    }[name]
    return Activation(value, slope, limit, gated)


class ActivatedLinear(torch.autograd.Function):
    """y = linear(activation(inner)); keeps only `inner` for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, inner_TF: torch.Tensor, anchor: torch.Tensor, activation: Activation, linear: FusedLinear
    ) -> torch.Tensor:
        y_TD, low_TR = linear.forward(activation.forward(inner_TF))
        ctx.activation, ctx.linear = activation, linear
        ctx.save_for_backward(inner_TF, low_TR)
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner_TF, low_TR = ctx.saved_tensors
        h_TF = ctx.activation.forward(inner_TF)
        dh_TF = ctx.linear.backward(dy_TD.contiguous(), h_TF, low_TR, need_dx=True)
        return ctx.activation.backward(dh_TF, inner_TF), None, None, None
