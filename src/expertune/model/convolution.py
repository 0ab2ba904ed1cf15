"""Short causal convolutions along the text, one filter for each channel; and the mixer of LFM2 that is made of one.

Axes: T token · N wanted place · C channel · K tap, the token itself last · D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .forward_context import ForwardContext, stacked
from .linear import FusedLinear
from .norm import Norm


def convolve(x_TC: torch.Tensor, taps_CK: torch.Tensor, before_TK: torch.Tensor) -> torch.Tensor:
    """Each channel's weighted sum of a token and those before it in its text, float32 (T, C)."""
    x_TC = x_TC.float()
    y_TC, padded_TC = x_TC * taps_CK[:, -1], torch.cat([x_TC, x_TC.new_zeros(1, x_TC.shape[1])])
    for back in range(1, taps_CK.shape[1]):
        y_TC = torch.addcmul(y_TC, padded_TC[before_TK[:, back - 1]], taps_CK[:, -1 - back])
    return y_TC


@dataclass(frozen=True)
class ShortConvolution:
    """Two gates around a convolution; `inner` makes gate, gate and input beside each other, (T, 3D)."""

    norm: Norm | None
    inner: FusedLinear
    taps_DK: torch.Tensor

    def mix(self, x_TD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """What the output layer gets, (T, D), or at the wanted places (N, D)."""
        before_TD, behind_TD, input_TD = stacked(x_TD, self.norm, self.inner, flow).chunk(3, dim=-1)
        y_TD = convolve(before_TD * input_TD, self.taps_DK, flow.before_TK)
        return flow.wanted(behind_TD * y_TD.to(flow.dtype))
