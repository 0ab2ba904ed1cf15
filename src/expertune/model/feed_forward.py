"""What stands between the products of a feed-forward: the activation, with its slope written out.

Axes: T token · F inner width · D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .linear import FusedLinear

BOUND, STEEPNESS = 7.0, 1.702  # gpt-oss


@dataclass(frozen=True)
class Activation:
    """`value` of the gate and its `slope` (gradient of the value, gate) → gradient of the gate.

    `bound` is where the other product is cut off on both sides, 1 being added to it then (0: neither).
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    bound: float = 0.0
    gated: bool = True

    def forward(self, inner_TF: torch.Tensor) -> torch.Tensor:
        """Gate and up beside each other (T, 2F), or without gate (T, F) → (T, F)."""
        if not self.gated:
            return self.value(inner_TF)
        gate_TF, up_TF = inner_TF.chunk(2, dim=-1)
        if self.bound:
            up_TF = up_TF.clamp(-self.bound, self.bound).add_(1.0)
        return self.value(gate_TF).mul_(up_TF)

    def backward(self, dh_TF: torch.Tensor, inner_TF: torch.Tensor) -> torch.Tensor:
        """The gradient of `forward`'s input; may write over `dh_TF`."""
        if not self.gated:
            return self.slope(dh_TF, inner_TF)
        gate_TF, up_TF = inner_TF.chunk(2, dim=-1)
        dinner_TF = torch.empty_like(inner_TF)
        dgate_TF, dup_TF = dinner_TF.chunk(2, dim=-1)
        torch.mul(dh_TF, self.value(gate_TF), out=dup_TF)
        if self.bound:
            dup_TF.mul_(up_TF.abs() <= self.bound)
            up_TF = up_TF.clamp(-self.bound, self.bound).add_(1.0)
        dgate_TF.copy_(self.slope(dh_TF.mul_(up_TF), gate_TF))
        return dinner_TF


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _gelu_slope(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")


def _bounded(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(max=BOUND)
    return torch.sigmoid(STEEPNESS * x).mul_(x)


def _bounded_slope(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    cut = x.clamp(max=BOUND)
    share = torch.sigmoid(STEEPNESS * cut)
    return dy * share * (1 + STEEPNESS * cut * (1 - share)) * (x <= BOUND)


def activation(name: str, *, gated: bool) -> Activation:
    """ "silu" and "gelu" (tanh form) as everyone has them; "bounded" is gpt-oss's."""
    value, slope, bound = {
        "silu": (torch.nn.functional.silu, torch.ops.aten.silu_backward, 0.0),
        "gelu": (_gelu, _gelu_slope, 0.0),
        "bounded": (_bounded, _bounded_slope, BOUND),
    }[name]
    return Activation(value, slope, bound, gated)


class ActivatedLinear(torch.autograd.Function):
    """y = stack(activation(inner)); keeps only the inner products."""

    @staticmethod
    def forward(
        ctx: Any, inner_TF: torch.Tensor, anchor: torch.Tensor, activation: Activation, stack: FusedLinear
    ) -> torch.Tensor:
        y_TD, low_TR = stack.forward(activation.forward(inner_TF))
        ctx.activation, ctx.stack = activation, stack
        ctx.save_for_backward(inner_TF, low_TR)
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner_TF, low_TR = ctx.saved_tensors
        h_TF = ctx.activation.forward(inner_TF)
        dh_TF = ctx.stack.backward(dy_TD.contiguous(), h_TF, low_TR, need_dx=True)
        return ctx.activation.backward(dh_TF, inner_TF), None, None, None
