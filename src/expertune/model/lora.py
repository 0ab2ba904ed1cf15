"""LoRA adapter: one flat vector of parameters, viewed as a pair A, B for each adapted linear layer.

With one vector, optimiser step, gradient clipping, checkpoint and cast to the compute dtype are single operations.

Axes: P parameter of the adapter · R rank · I input · O output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import TrainingFailedError


@dataclass(frozen=True)
class LoraLayer:
    """A linear layer that gets an adapter: `name` as in the GGUF, without ".weight"."""

    name: str
    outputs: int
    inputs: int


class LoraWeights:
    """ΔW_OI = alpha / rank · B_OR @ A_RI for each layer; B starts at zero, so a fresh adapter changes nothing.

    `values_P` are the trained parameters (float32), `gradients_P` their gradient, filled by the layers' backward pass,
    `compute_P` a copy in the compute dtype.
    """

    def __init__(
        self,
        layers: Sequence[LoraLayer],
        *,
        rank: int,
        alpha: float,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layers, self.rank, self.scale, self.alpha = tuple(layers), rank, alpha / rank, alpha
        self._places = _places(self.layers, rank)
        size = sum(rank * (layer.inputs + layer.outputs) for layer in self.layers)
        self.values_P = torch.zeros(size, dtype=torch.float32, device=device)
        self.gradients_P = torch.zeros_like(self.values_P)
        self.compute_P = torch.zeros(size, dtype=dtype, device=device)
        self._seed = seed
        self.restart()

    def restart(self) -> None:
        """Initialise: Kaiming-uniform A as in PEFT, B = 0; drawn by numpy, so that all devices start alike."""
        self.values_P.zero_()
        draw = np.random.default_rng(self._seed)
        for layer in self.layers:
            bound = math.sqrt(3.0) * math.sqrt(2.0 / (1.0 + 5.0)) / math.sqrt(layer.inputs)
            a_RI = draw.uniform(-bound, bound, (self.rank, layer.inputs)).astype(np.float32)
            self.a(layer.name, self.values_P).copy_(torch.from_numpy(a_RI))
        self.refresh()

    def refresh(self) -> None:
        """Copy the parameters to the compute dtype; needed after each optimiser step."""
        self.compute_P.copy_(self.values_P)

    def a(self, name: str, flat_P: torch.Tensor) -> torch.Tensor:
        """A_RI of a layer as a view of one of the flat vectors."""
        start, _, layer = self._places[name]
        return flat_P[start : start + self.rank * layer.inputs].view(self.rank, layer.inputs)

    def b(self, name: str, flat_P: torch.Tensor) -> torch.Tensor:
        """B_OR of a layer as a view of one of the flat vectors."""
        _, start, layer = self._places[name]
        return flat_P[start : start + self.rank * layer.outputs].view(layer.outputs, self.rank)

    def pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name of each adapted tensor → (A_RI, B_OR), float32 copies on the CPU."""
        values_P = self.values_P.cpu()
        return {
            f"{layer.name}.weight": (
                self.a(layer.name, values_P).numpy().copy(),
                self.b(layer.name, values_P).numpy().copy(),
            )
            for layer in self.layers
        }

    def load(self, values_P: torch.Tensor) -> None:
        """Set the parameters from a vector of the same layout. Raises TrainingFailedError if its length differs."""
        if values_P.shape != self.values_P.shape:
            raise TrainingFailedError(
                "the checkpoint belongs to another model or rank; remove the checkpoints folder and start again"
            )
        self.values_P.copy_(values_P)
        self.refresh()


def _places(layers: Sequence[LoraLayer], rank: int) -> dict[str, tuple[int, int, LoraLayer]]:
    """Name → (start of A, start of B, layer): all A in order, then all B: the A of fused layers are one matrix."""
    places: dict[str, tuple[int, int, LoraLayer]] = {}
    a_start, b_start = 0, sum(rank * layer.inputs for layer in layers)
    for layer in layers:
        places[layer.name] = (a_start, b_start, layer)
        a_start += rank * layer.inputs
        b_start += rank * layer.outputs
    return places
