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
from expertune.train.class_balance import balance
from expertune.train.cuda_graph import GraphedStep
from expertune.train.encode import Candidates
from expertune.train.rows import training_rows

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


@pytest.mark.parametrize("family", ["llama", "gemma3", "olmo3"])
def test_a_replayed_graph_gives_the_gradient_of_the_cpu(tmp_path: Path, family: str) -> None:
    path, rows = families.make(tmp_path / "tiny.gguf", families.FAMILIES[family]), rows_of()
    labels = Candidates((), tuple((token, 7) for token in (40, 41, 42)))
    decisions = balance(Config(), labels, rows).decisions
    found = []
    for device in ("cpu", "cuda"):
        tunable = load(
            GGUFFile(path), Config(rank=4, alpha=8.0), Placement(torch.device(device), torch.float32, True, 1)
        )
        draw = torch.Generator().manual_seed(3)
        tunable.lora.values_P.add_(0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw).to(device))
        tunable.lora.refresh()
        step = GraphedStep(tunable)
        for _ in range(3):  # without a graph, recorded, replayed
            tunable.lora.gradients_P.zero_()
            loss = step.backward(training_rows(rows, (1.0, 2.0, 0.5), decisions), 1.0)
        assert step.count == (device == "cuda"), step.refusal
        found.append((float(loss), tunable.lora.gradients_P.cpu()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)
