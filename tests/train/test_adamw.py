"""Our AdamW beside torch.optim.AdamW: no value differs, also after it was resumed; torch's compiler is never loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from expertune.train.adamw import AdamW

STEPS, RESUMED_AT = 40, 17


def rate_of(step: int) -> float:
    return 3e-3 * (1 - step / STEPS)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_the_values_are_those_of_torch(weight_decay: float) -> None:
    draw = torch.Generator().manual_seed(7)
    gradients = [torch.randn(10_003, generator=draw) * 10.0 ** (at % 9 - 6) for at in range(STEPS)]
    start_P = torch.randn(10_003, generator=draw)
    own_P, peer_P = start_P.clone(), start_P.clone().requires_grad_()
    peer = torch.optim.AdamW([peer_P], weight_decay=weight_decay)
    own = AdamW(own_P, weight_decay=weight_decay)
    for at, gradients_P in enumerate(gradients):
        if at == RESUMED_AT:
            resumed = AdamW(own_P, weight_decay=weight_decay)
            resumed.resume(at, own.first_moment_P, own.second_moment_P)
            own = resumed
        own.step(gradients_P, rate_of(at))
        peer.param_groups[0]["lr"], peer_P.grad = rate_of(at), gradients_P
        peer.step()
    assert torch.equal(own_P, peer_P.detach())
    assert not torch.equal(own_P, start_P)


def test_a_training_loads_no_compiler() -> None:
    """torch.optim would: 1.5 s of each process."""
    step = "AdamW(torch.zeros(3), weight_decay=0.1).step(torch.ones(3), 1e-3)"
    imports = "import sys, torch; from expertune.train.loop import AdamW"
    program = f"{imports}; {step}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
