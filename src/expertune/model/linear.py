"""A frozen linear layer with LoRA, with a hand-written backward pass.

    y_TO = x_TI @ W_OI.T + scale · (x_TI @ A_RI.T) @ B_OR.T

Layers with the same input (q, k, v; gate, up) are fused: one matrix multiplication for all W, one for all A.
The gradients of A and B are added to the adapter's flat vector directly; autograd only carries dx. An `anchor`
(any tensor that requires a gradient) makes autograd call the backward pass even if x itself needs no gradient.

Axes: T token · I input · O output · R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .lora import LoraWeights
from .norm import Norm
from .weights import FrozenWeight


@dataclass(frozen=True)
class Part:
    """One linear layer of a fused one: its rows of the output, and whether it has an adapter."""

    name: str
    start: int
    stop: int
    adapted: bool


class FusedLinear:
    """Linear layers with one input, their frozen weights concatenated by rows, with the adapters of the parts."""

    def __init__(
        self, weight: FrozenWeight, parts: Sequence[Part], lora: LoraWeights, bias_O: torch.Tensor | None
    ) -> None:
        self.weight, self.parts, self.lora, self.bias_O = weight, tuple(parts), lora, bias_O
        self.adapted = tuple(part for part in parts if part.adapted)

    def fused_a(self, flat_P: torch.Tensor) -> torch.Tensor:
        """A of all adapted parts, (parts · R, I): they are contiguous in the flat vector."""
        first_RI = self.lora.a(self.adapted[0].name, flat_P)
        rows = self.lora.rank * len(self.adapted)
        return first_RI.as_strided((rows, first_RI.shape[1]), first_RI.stride(), first_RI.storage_offset())

    def forward(self, x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output (T, O), and x @ A.T of the adapted parts (T, parts · R), which the backward pass needs."""
        weight_IO = self.weight.matrix().t()
        y_TO = x_TI @ weight_IO if self.bias_O is None else torch.addmm(self.bias_O, x_TI, weight_IO)
        if not self.adapted:
            return y_TO, None
        low_TR = x_TI @ self.fused_a(self.lora.compute_P).t()
        for index, part in enumerate(self.adapted):
            b_RO = self.lora.b(part.name, self.lora.compute_P).t()
            y_TO[:, part.start : part.stop].addmm_(self._low(low_TR, index), b_RO, alpha=self.lora.scale)
        return y_TO, low_TR

    def backward(
        self, dy_TO: torch.Tensor, x_TI: torch.Tensor, low_TR: torch.Tensor | None, *, need_dx: bool
    ) -> torch.Tensor | None:
        """Add dA and dB to the adapter's gradient; return dx (T, I) if `need_dx`."""
        dlow_TR: torch.Tensor | None = None
        if low_TR is not None:
            dlow_TR = torch.empty_like(low_TR)
            for index, part in enumerate(self.adapted):
                dy_part_TO = dy_TO[:, part.start : part.stop]
                b_OR = self.lora.b(part.name, self.lora.compute_P)
                self._low(dlow_TR, index).copy_(dy_part_TO @ b_OR)
                db_OR = dy_part_TO.t() @ self._low(low_TR, index)
                self.lora.b(part.name, self.lora.gradients_P).add_(db_OR, alpha=self.lora.scale)
            dlow_TR.mul_(self.lora.scale)
            self.fused_a(self.lora.gradients_P).add_(dlow_TR.t() @ x_TI)
        if not need_dx:
            return None
        dx_TI = dy_TO @ self.weight.matrix()
        if dlow_TR is not None:
            dx_TI.addmm_(dlow_TR, self.fused_a(self.lora.compute_P))
        return dx_TI

    def _low(self, low_TR: torch.Tensor, index: int) -> torch.Tensor:
        return low_TR[:, index * self.lora.rank : (index + 1) * self.lora.rank]


class Linear(torch.autograd.Function):
    """y = linear(x)."""

    @staticmethod
    def forward(ctx: Any, x_TI: torch.Tensor, anchor: torch.Tensor, linear: FusedLinear) -> torch.Tensor:
        y_TO, low_TR = linear.forward(x_TI)
        ctx.linear = linear
        ctx.save_for_backward(x_TI, low_TR)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TI, low_TR = ctx.saved_tensors
        return ctx.linear.backward(dy_TO.contiguous(), x_TI, low_TR, need_dx=ctx.needs_input_grad[0]), None, None


class NormLinear(torch.autograd.Function):
    """y = linear(norm(x)); keeps only x and recomputes the normalised input in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: torch.Tensor, anchor: torch.Tensor, norm: Norm, linear: FusedLinear, dtype: torch.dtype
    ) -> torch.Tensor:
        y_TO, low_TR = linear.forward(norm.forward(x_TD).to(dtype))
        ctx.norm, ctx.linear, ctx.dtype = norm, linear, dtype
        ctx.save_for_backward(x_TD, low_TR)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TD, low_TR = ctx.saved_tensors
        again_TD, saved = ctx.norm.again(x_TD)
        normed_TD = again_TD.to(ctx.dtype)
        dn_TD = ctx.linear.backward(dy_TO.contiguous(), normed_TD, low_TR, need_dx=ctx.needs_input_grad[0])
        if dn_TD is None:
            return None, None, None, None, None
        return ctx.norm.backward(dn_TD.float(), *saved), None, None, None, None
