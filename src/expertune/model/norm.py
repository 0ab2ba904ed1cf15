"""RMSNorm and LayerNorm over the last axis, with a hand-written backward pass. Axes: T token · D normed width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Norm:
    """RMSNorm: x / rms(x) · weight + bias; with `layernorm` the mean of x is subtracted first (LayerNorm)."""

    weight_D: torch.Tensor | None
    bias_D: torch.Tensor | None
    epsilon: float
    layernorm: bool

    def unit(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised x before weight and bias, float32, and the scale of each row (T, 1). x is float32."""
        if self.layernorm:
            x_TD = x_TD - x_TD.mean(-1, keepdim=True)
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        scale_T1 = (length_T1.square() / x_TD.shape[-1] + self.epsilon).rsqrt()
        return x_TD * scale_T1, scale_T1

    def weigh(self, unit_TD: torch.Tensor) -> torch.Tensor:
        """Apply weight and bias to a normalised x, in place."""
        if self.weight_D is not None:
            unit_TD.mul_(self.weight_D)
        return unit_TD if self.bias_D is None else unit_TD.add_(self.bias_D)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        return self._fused(x_TD)[0] if self._is_fused(x_TD) else self.weigh(self.unit(x_TD)[0])

    def saved(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x_TD, self._fused(x_TD)[1]) if self._is_fused(x_TD) else self.unit(x_TD)

    def again(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Normalised x as in `forward`, and what `backward` needs."""
        if self._is_fused(x_TD):
            normed_TD, scale_T1 = self._fused(x_TD)
            return normed_TD, (x_TD, scale_T1)
        saved = self.unit(x_TD)
        return self.weigh(saved[0].clone()), saved

    def backward(self, dy_TD: torch.Tensor, unit_TD: torch.Tensor, scale_T1: torch.Tensor) -> torch.Tensor:
        """Gradient of x, float32; may overwrite `dy_TD`, which is float32. With the fused kernels `unit_TD` is x."""
        if self._is_fused(unit_TD):
            width = [unit_TD.shape[-1]]
            return torch.ops.aten._fused_rms_norm_backward(
                dy_TD, unit_TD, width, scale_T1, self.weight_D, [True, False]
            )[0]
        du_TD = dy_TD if self.weight_D is None else dy_TD.mul_(self.weight_D)
        along_T1 = torch.linalg.vecdot(du_TD, unit_TD).unsqueeze(-1).div_(unit_TD.shape[-1])
        dx_TD = du_TD.addcmul_(unit_TD, along_T1, value=-1).mul_(scale_T1)
        return dx_TD.sub_(dx_TD.mean(-1, keepdim=True)) if self.layernorm else dx_TD

    def _is_fused(self, x_TD: torch.Tensor) -> bool:
        """True on CUDA, where torch has one kernel for an RMSNorm (since 2.9) and one for its gradient."""
        plain = not self.layernorm and self.bias_D is None and self.weight_D is not None and self.weight_D.dim() == 1
        return x_TD.is_cuda and plain and hasattr(torch.ops.aten, "_fused_rms_norm_backward")

    def _fused(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ops.aten._fused_rms_norm(x_TD, [x_TD.shape[-1]], self.weight_D, self.epsilon)


class ApplyNorm(torch.autograd.Function):
    """y = norm(x) in `dtype`; keeps only x and recomputes the rest in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_TD: torch.Tensor, norm: Norm, dtype: torch.dtype) -> torch.Tensor:
        ctx.norm = norm
        ctx.save_for_backward(x_TD)
        return norm.forward(x_TD.float()).to(dtype)

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x_TD,) = ctx.saved_tensors
        saved = ctx.norm.saved(x_TD.float())
        dx_TD = ctx.norm.backward(dy_TD.to(torch.float32, copy=True), *saved)
        return dx_TD.to(x_TD.dtype), None, None
