"""Mixture of experts, frozen: the router picks the top K experts, whose outputs are added with weights.

Axes: T token · F inner width · D model width · K experts of a token · E expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .feed_forward import Activation
from .weights import ExpertWeights


@dataclass(frozen=True)
class Mixture:
    """The experts of one block; each token uses `used` of them. `down_scale_E` scales the output of each expert."""

    router_ED: torch.Tensor
    router_bias_E: torch.Tensor | None
    gate_up: ExpertWeights
    down: ExpertWeights
    used: int
    activation: Activation
    down_scale_E: torch.Tensor | None = None

    def choose(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Router: weights of the chosen experts, summing to 1 before `down_scale_E`, and indices, (T, K). x is float32.

        A softmax over all experts, renormalised over the chosen ones, equals the softmax over the chosen ones.
        """
        logits_TE = x_TD @ self.router_ED.t()
        if self.router_bias_E is not None:
            logits_TE = logits_TE + self.router_bias_E
        top_TK, chosen_TK = logits_TE.topk(self.used, dim=-1)
        weights_TK = torch.softmax(top_TK, dim=-1)
        return (weights_TK if self.down_scale_E is None else weights_TK * self.down_scale_E[chosen_TK]), chosen_TK

    def routes(self, chosen_TK: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Each expert in use: its index, its tokens, and its slot (K) for each of them."""
        for expert in torch.unique(chosen_TK).tolist():
            rows, slots = torch.where(chosen_TK == expert)
            yield expert, rows, slots


class MoEFunction(torch.autograd.Function):
    """(T, D) → weighted sum of the chosen experts (T, D), float32.

    The weights of one expert at a time are dequantised; the backward pass recomputes the inner activations.
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
