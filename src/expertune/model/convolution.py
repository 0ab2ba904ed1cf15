"""Short causal depthwise convolutions along the text, and the mixer of LFM2 that consists of one.

Axes: T token · N wanted place · C channel · K kernel element, the token itself last · D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .forward_context import ForwardContext, norm_linear
from .linear import FusedLinear
from .norm import Norm


def convolve(x_TC: torch.Tensor, kernel_CK: torch.Tensor, before_TK: torch.Tensor) -> torch.Tensor:
    """Weighted sum over a token and the K − 1 tokens before it in its text, per channel, float32 (T, C)."""
    x_TC = x_TC.float()
    y_TC, padded_TC = x_TC * kernel_CK[:, -1], torch.cat([x_TC, x_TC.new_zeros(1, x_TC.shape[1])])
    for back in range(1, kernel_CK.shape[1]):
        y_TC = torch.addcmul(y_TC, padded_TC[before_TK[:, back - 1]], kernel_CK[:, -1 - back])
    return y_TC


@dataclass(frozen=True)
class ShortConvolution:
    """A gated convolution; `inner` projects to input gate, output gate and input, (T, 3D)."""

    norm: Norm | None
    inner: FusedLinear
    kernel_DK: torch.Tensor

    def mix(self, x_TD: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Input of the output projection: (T, D), or (N, D) at the wanted places."""
        gate_in_TD, gate_out_TD, input_TD = norm_linear(x_TD, self.norm, self.inner, context).chunk(3, dim=-1)
        y_TD = convolve(gate_in_TD * input_TD, self.kernel_DK, context.before_TK)
        return context.wanted(gate_out_TD * y_TD.to(context.dtype))
