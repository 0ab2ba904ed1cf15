"""bench/scale.py: files of a model's shape, a block that is trained, and the tables that are computed from it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import scale
import scale_table
from gpu_models import Shape

from expertune.estimate.capability import REFERENCE
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config

TINY = Shape("tiny.gguf", "qwen2", 256, 512, 3, 4, 2, 64, 512, 10000.0, 1e-5)
OPTIONS = {"rows": 1, "weight_cache": "dequantized", "compute_dtype": "fp32"}
TIMES = {"step_s": 2.0, "look_s": 1.0, "peak_mb": 1000.0, "said_mb": 1100.0, "unpack_ns": 1.0, "precision": "float32"}
STAMP = {"date": "2026-01-02T03:04:05", "commit": "abc", "machine": "MACHINE", "rows": 2}


def entry(name: str, block: float) -> dict[str, object]:
    """A first block of two seconds a step, and a second of so many; an evaluation takes half."""
    one = {**TIMES, "base_memory": "cached"}
    return {**STAMP, "model": name, "1": one, "2": {**one, "step_s": 2 + block, "look_s": 1 + block / 2}}


def test_a_header_has_the_size_of_the_model_and_no_weights(tmp_path: Path) -> None:
    path = scale.write_file(tmp_path / "m.gguf", scale.SHAPES["Llama 3.3 70B"])
    assert path.stat().st_blocks * 512 < 1e6 < 39e9 < path.stat().st_size
    with GGUFFile(path) as file:
        spec = read_config(file)
        assert len(spec.layers) == 80
        parameters = sum(np.prod(info.shape) for info in file.tensors.values())
    assert parameters == pytest.approx(70.55e9, rel=0.001)  # the model's page: 70.6 B


def test_a_block_is_trained(tmp_path: Path) -> None:
    found = scale.measured(scale.fill(scale.write_file(tmp_path / "m.gguf", TINY, 1)), Namespace(**OPTIONS))
    assert found["step_s"] > 0 < found["look_s"] and found["unpack_ns"] > 0
    assert (found["base_memory"], found["precision"]) == ("cached", "float32")


def test_the_blocks_of_a_model_take_their_number_times_a_block() -> None:
    model = scale_table.model_of("Llama 3.1 8B")
    rate = scale_table.on_processor(model, entry("Llama 3.1 8B", 0.5))
    tokens = 2 * REFERENCE.row
    assert model.first == 21  # the top third has an adapter
    assert rate.tokens_per_second == pytest.approx(tokens / (2 + 10 * 0.5))
    assert rate.look_tokens_per_second == pytest.approx(tokens / (1 + 10 * 0.25))
    assert rate.trunk_seconds_per_token == pytest.approx(21 * 0.25 / tokens)


def test_eight_gpus_divide_the_products_and_not_the_unpacking() -> None:
    small, large = (scale_table.model_of(name) for name in ("Llama 3.1 8B", "Llama 3.3 70B"))
    speed = {
        count: [scale_table.on_gpus(model, 1e14, count, 1e-10, 0.0).tokens_per_second for model in (small, large)]
        for count in (1, 8)
    }
    assert speed[8][0] / speed[1][0] == pytest.approx(8, rel=0.02)  # the sum of the gradients takes little
    assert large.on_gpu > 8e10 > large.on_gpu_quantized and speed[8][1] / speed[1][1] < 2
    assert scale_table.on_gpus(small, 1e18, 8, 0.0, 0.02).tokens_per_second == small.batch * REFERENCE.row / 0.02


def test_the_tables_say_what_was_measured_and_what_needs_which_machine() -> None:
    found = [entry(name, size) for name, size in zip(scale.SHAPES, (0.5, 2.0, 4.0, 8.0), strict=True)]
    text = "\n".join(scale_table.tables(found))
    assert "| Llama 3.1 8B | one thread | float32 |" in text and "| from a block of Llama 3.1 8B, measured |" in text
    assert "| Llama 3.3 70B | 8 × H100 | quantized |" in text
    assert "a computer with 64 GB of memory (or, with --weight-cache dequantized, a GPU with 192 GB)" in text
    assert "| 1,000 | 1,100 (+10%) |" in text and "MACHINE, one thread, float32, 2 rows a step" in text


def test_a_model_whose_block_was_not_measured_is_computed_from_another() -> None:
    small, large = (scale_table.model_of(name) for name in ("Llama 3.1 8B", "Llama 3.3 70B"))
    ratio = large.work[0] / small.work[0]
    carried = scale_table.carried_to(large, entry("Llama 3.1 8B", 0.5))
    assert carried["2"]["step_s"] - carried["1"]["step_s"] == pytest.approx(0.5 * ratio) and 3.5 < ratio < 4.5
    assert "| from a block of Llama 3.1 8B, computed |" in "\n".join(scale_table.tables([entry("Llama 3.1 8B", 0.5)]))


def test_the_memory_on_a_gpu_is_near_what_was_measured() -> None:
    for each in scale_table.gpu_entries():
        assert scale_table.gpu_bytes(each["model"], each["batch"]) / 1e6 == pytest.approx(each["peak_mb"], rel=0.2)
