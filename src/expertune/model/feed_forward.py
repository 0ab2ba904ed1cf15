"""What stands between the products of a feed-forward: the activation, with its slope written out, and the experts.

Axes: T token · F inner width · D model width · K experts of a token · E expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .linear import Stack
from .weights import ExpertWeights

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
        ctx: Any, inner_TF: torch.Tensor, anchor: torch.Tensor, activation: Activation, stack: Stack
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


# --- mixtures of experts ---


@dataclass(frozen=True)
class Mixture:
    """The experts of one block, frozen; `used` of them see a token. `shared` is one that every token sees too."""

    router_ED: torch.Tensor
    router_bias_E: torch.Tensor | None
    gate_up: ExpertWeights
    down: ExpertWeights
    used: int
    activation: Activation
    down_scale_E: torch.Tensor | None = None

    def choose(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of the used experts (T, K), adding up to 1, and which they are. x is float32.

        A softmax over all experts whose chosen ones are scaled to 1 is the softmax over the chosen ones.
        """
        logits_TE = x_TD @ self.router_ED.t()
        if self.router_bias_E is not None:
            logits_TE = logits_TE + self.router_bias_E
        top_TK, chosen_TK = logits_TE.topk(self.used, dim=-1)
        weights_TK = torch.softmax(top_TK, dim=-1)
        return (weights_TK if self.down_scale_E is None else weights_TK * self.down_scale_E[chosen_TK]), chosen_TK

    def routes(self, chosen_TK: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Each expert that is used: its number, the tokens it sees, and its place among the experts of each."""
        for expert in torch.unique(chosen_TK).tolist():
            rows, slots = torch.where(chosen_TK == expert)
            yield expert, rows, slots


class Routed(torch.autograd.Function):
    """(T, D) → the weighted sum of the chosen experts (T, D), float32.

    An expert's weights are unpacked when its turn comes, and its inner products are made again in the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TD: torch.Tensor, weights_TK: torch.Tensor, chosen_TK: torch.Tensor, mixture: Mixture
    ) -> torch.Tensor:
        ctx.mixture = mixture
        ctx.save_for_backward(x_TD, weights_TK, chosen_TK)
        y_TD = torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
        for expert, rows, slots in mixture.routes(chosen_TK):
            h_TF = mixture.activation.forward(mixture.gate_up.product(expert, x_TD[rows]))
            part_TD = mixture.down.product(expert, h_TF).float()
            y_TD.index_add_(0, rows, part_TD.mul_(weights_TK[rows, slots].unsqueeze(-1)))
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TD, weights_TK, chosen_TK = ctx.saved_tensors
        mixture: Mixture = ctx.mixture
        dx_TD, dweights_TK = torch.zeros_like(x_TD, dtype=torch.float32), torch.zeros_like(weights_TK)
        for expert, rows, slots in mixture.routes(chosen_TK):
            inner_TF = mixture.gate_up.product(expert, x_TD[rows])
            h_TF, dy_rows_TD = mixture.activation.forward(inner_TF), dy_TD[rows]
            part_TD = mixture.down.product(expert, h_TF).float()
            dweights_TK[rows, slots] = torch.linalg.vecdot(part_TD, dy_rows_TD)
            dpart_TD = (dy_rows_TD * weights_TK[rows, slots].unsqueeze(-1)).to(x_TD.dtype)
            dinner_TF = mixture.activation.backward(mixture.down.back(expert, dpart_TD), inner_TF)
            dx_TD.index_add_(0, rows, mixture.gate_up.back(expert, dinner_TF).float())
        return dx_TD.to(x_TD.dtype), dweights_TK, None, None
