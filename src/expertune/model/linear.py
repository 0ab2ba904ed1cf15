"""A frozen linear layer with LoRA, forward and backward written out.

    y_TO = x_TI @ W_OI.T + scale · (x_TI @ A_RI.T) @ B_OR.T

Layers that share their input (q, k, v; gate, up) are one stack: one product for all their W, one for all their A.
The gradients of A and B are added to the adapter's flat vector directly; autograd only carries dx. An `anchor`
(any tensor that requires a gradient) makes autograd call the backward even where x itself needs no gradient.

Axes: T token · I input · O output · R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .lora import Lora
from .weights import FrozenWeight


@dataclass(frozen=True)
class Part:
    """One linear layer in a stack: its rows of the stacked output, and whether it has an adapter."""

    name: str
    start: int
    stop: int
    adapted: bool


class Stack:
    """Frozen weights over one input, with the adapters of their parts."""

    def __init__(
        self, weight: FrozenWeight, parts: Sequence[Part], lora: Lora | None, bias_O: torch.Tensor | None = None
    ) -> None:
        self.weight, self.parts, self.lora, self.bias_O = weight, tuple(parts), lora, bias_O
        self.adapted = tuple(part for part in parts if part.adapted and lora is not None)

    def stacked_a(self, flat_P: torch.Tensor) -> torch.Tensor:
        """The A of all adapted parts below each other, (parts · R, I): neighbours in the flat vector."""
        assert self.lora is not None
        first_RI = self.lora.a(self.adapted[0].name, flat_P)
        rows = self.lora.rank * len(self.adapted)
        return first_RI.as_strided((rows, first_RI.shape[1]), first_RI.stride(), first_RI.storage_offset())

    def forward(self, x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output (T, O) and the low-rank middle (T, parts · R), which the backward needs."""
        weight_IO = self.weight.matrix().t()
        y_TO = x_TI @ weight_IO if self.bias_O is None else torch.addmm(self.bias_O, x_TI, weight_IO)
        if not self.adapted or self.lora is None:
            return y_TO, None
        low_TR = x_TI @ self.stacked_a(self.lora.compute_P).t()
        for index, part in enumerate(self.adapted):
            b_RO = self.lora.b(part.name, self.lora.compute_P).t()
            y_TO[:, part.start : part.stop].addmm_(self._low(low_TR, index), b_RO, alpha=self.lora.scale)
        return y_TO, low_TR

    def backward(
        self, dy_TO: torch.Tensor, x_TI: torch.Tensor, low_TR: torch.Tensor | None, *, need_dx: bool
    ) -> torch.Tensor | None:
        """Adds dA and dB to the adapter's gradient; returns dx (T, I) where asked for."""
        dlow_TR: torch.Tensor | None = None
        if self.lora is not None and low_TR is not None:
            dlow_TR = torch.empty_like(low_TR)
            for index, part in enumerate(self.adapted):
                dy_part_TO = dy_TO[:, part.start : part.stop]
                b_OR = self.lora.b(part.name, self.lora.compute_P)
                self._low(dlow_TR, index).copy_(dy_part_TO @ b_OR)
                db_OR = dy_part_TO.t() @ self._low(low_TR, index)
                self.lora.b(part.name, self.lora.gradients_P).add_(db_OR, alpha=self.lora.scale)
            dlow_TR.mul_(self.lora.scale)
            self.stacked_a(self.lora.gradients_P).add_(dlow_TR.t() @ x_TI)
        if not need_dx:
            return None
        dx_TI = dy_TO @ self.weight.matrix()
        if dlow_TR is not None and self.lora is not None:
            dx_TI.addmm_(dlow_TR, self.stacked_a(self.lora.compute_P))
        return dx_TI

    def _low(self, low_TR: torch.Tensor, index: int) -> torch.Tensor:
        assert self.lora is not None
        return low_TR[:, index * self.lora.rank : (index + 1) * self.lora.rank]


class Linear(torch.autograd.Function):
    """y = stack(x)."""

    @staticmethod
    def forward(ctx: Any, x_TI: torch.Tensor, anchor: torch.Tensor, stack: Stack) -> torch.Tensor:
        y_TO, low_TR = stack.forward(x_TI)
        ctx.stack = stack
        ctx.save_for_backward(x_TI, low_TR)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TI, low_TR = ctx.saved_tensors
        return ctx.stack.backward(dy_TO.contiguous(), x_TI, low_TR, need_dx=ctx.needs_input_grad[0]), None, None


def rms_scale(x_TD: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1 / root mean square of each row, float32 (T, 1)."""
    return (torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True).square() / x_TD.shape[-1] + epsilon).rsqrt()


class NormLinear(torch.autograd.Function):
    """y = stack(RMSNorm(x) · w); keeps only x, and makes the normalised input again in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: torch.Tensor,
        anchor: torch.Tensor,
        norm_D: torch.Tensor,
        epsilon: float,
        stack: Stack,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        scale_T1 = rms_scale(x_TD, epsilon)
        y_TO, low_TR = stack.forward((x_TD * scale_T1).mul_(norm_D).to(dtype))
        ctx.stack, ctx.dtype = stack, dtype
        ctx.save_for_backward(x_TD, scale_T1, norm_D, low_TR)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TD, scale_T1, norm_D, low_TR = ctx.saved_tensors
        unit_TD = x_TD * scale_T1
        normed_TD = (unit_TD * norm_D).to(ctx.dtype)
        dn_TD = ctx.stack.backward(dy_TO.contiguous(), normed_TD, low_TR, need_dx=ctx.needs_input_grad[0])
        if dn_TD is None:
            return None, None, None, None, None, None
        du_TD = dn_TD.float().mul_(norm_D)
        along_T1 = torch.linalg.vecdot(du_TD, unit_TD).unsqueeze(-1).div_(x_TD.shape[-1])
        return du_TD.addcmul_(unit_TD, along_T1, value=-1).mul_(scale_T1), None, None, None, None, None


class SwigluLinear(torch.autograd.Function):
    """y = stack(silu(gate) · up) from the stacked gate and up (T, 2F); keeps only those."""

    @staticmethod
    def forward(ctx: Any, gate_up_TF: torch.Tensor, anchor: torch.Tensor, stack: Stack) -> torch.Tensor:
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        y_TD, low_TR = stack.forward(torch.nn.functional.silu(gate_TF).mul_(up_TF))
        ctx.stack = stack
        ctx.save_for_backward(gate_up_TF, low_TR)
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate_up_TF, low_TR = ctx.saved_tensors
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        silu_TF = torch.nn.functional.silu(gate_TF)
        dh_TF = ctx.stack.backward(dy_TD.contiguous(), silu_TF * up_TF, low_TR, need_dx=True)
        dgate_up_TF = torch.empty_like(gate_up_TF)
        dgate_TF, dup_TF = dgate_up_TF.chunk(2, dim=-1)
        torch.mul(dh_TF, silu_TF, out=dup_TF)
        dgate_TF.copy_(torch.ops.aten.silu_backward(dh_TF.mul_(up_TF), gate_TF))
        return dgate_up_TF, None, None
