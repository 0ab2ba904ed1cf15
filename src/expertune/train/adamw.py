"""AdamW on one vector: the update of torch.optim.AdamW on the CPU, bit for bit.

torch.optim loads torch's compiler with the first optimiser: 1.5 s of each process that trains.
"""

from __future__ import annotations

import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """The moments of the gradient of `values_P`, which `step` changes in place; `steps` were done before.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2.
    """

    def __init__(self, values_P: torch.Tensor, *, weight_decay: float) -> None:
        self._values_P, self._weight_decay, self._steps = values_P, weight_decay, 0
        self.first_moment_P, self.second_moment_P = torch.zeros_like(values_P), torch.zeros_like(values_P)

    def resume(self, steps: int, first_moment_P: torch.Tensor, second_moment_P: torch.Tensor) -> None:
        self._steps = steps
        self.first_moment_P.copy_(first_moment_P)
        self.second_moment_P.copy_(second_moment_P)

    def step(self, gradients_P: torch.Tensor, rate: float) -> None:
        """One update of the values, at the learning rate `rate`."""
        self._steps += 1
        if self._weight_decay:
            self._values_P.mul_(1 - rate * self._weight_decay)
        self.first_moment_P.lerp_(gradients_P, 1 - BETA1)
        self.second_moment_P.mul_(BETA2).addcmul_(gradients_P, gradients_P, value=1 - BETA2)
        spread = (1 - BETA2**self._steps) ** 0.5
        scale_P = self.second_moment_P.sqrt().div_(spread).add_(EPSILON)
        self._values_P.addcdiv_(self.first_moment_P, scale_P, value=-rate / (1 - BETA1**self._steps))
