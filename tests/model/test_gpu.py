"""The same numbers on a GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_gradients import gradient, rows_of

import families
from expertune.config import Config
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("family", ["llama", "gemma4 small", "gpt-oss", "qwen35", "lfm2"])
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "packed"])
def test_gradients_on_the_gpu_equal_those_on_the_cpu(tmp_path: Path, cached: bool, family: str) -> None:
    path = families.make(tmp_path / "tiny.gguf", families.FAMILIES[family])
    found = []
    for device in ("cpu", "cuda"):
        placement = Placement(torch.device(device), torch.float32, cached, 1)
        tunable = load(GGUFFile(path), Config(rank=4, alpha=8.0), placement)
        draw = torch.Generator().manual_seed(3)
        tunable.lora.values_P.add_(0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw).to(device))
        tunable.lora.refresh()
        found.append(gradient(tunable, rows_of()).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
