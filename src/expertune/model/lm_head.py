"""The output head: hidden states → logits over the vocabulary. Axes: N place · D model width · V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .weights import FrozenWeight


@dataclass(frozen=True)
class LMHead:
    """logits = softcap · tanh(scale · product / softcap); a `softcap` of 0 means logits = scale · product."""

    weight: FrozenWeight
    scale: float = 1.0
    softcap: float = 0.0

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    def logits(self, normed_ND: torch.Tensor) -> torch.Tensor:
        """ApplyNorm hidden states → float32 logits (N, V)."""
        return self.finish(normed_ND @ self.weight.matrix().t())

    def finish(self, product_NV: torch.Tensor) -> torch.Tensor:
        """Product with the head's matrix → float32 logits."""
        logits_NV = product_NV.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return torch.tanh(logits_NV / self.softcap) * self.softcap if self.softcap else logits_NV

    def slope(self, logits_NV: torch.Tensor) -> torch.Tensor | None:
        """d logits / d product at these logits, or None if it is 1."""
        if self.softcap:
            return (1 - (logits_NV / self.softcap).square()) * self.scale
        return None if self.scale == 1.0 else logits_NV.new_tensor(self.scale)
