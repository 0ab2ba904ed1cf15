"""Hidden states of our decoder against llama.cpp's, after a block in the middle and after the last one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import families
from decoder_parity import state_differences


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3"])
def test_states_equal_llama_cpps(name: str, depth: int, tmp_path: Path) -> None:
    family, draw = families.FAMILIES[name], np.random.default_rng(2)
    path = families.make(tmp_path / "model.gguf", family)
    prompts = [draw.integers(5, 200, length).tolist() for length in (3, 90)]
    found = state_differences(path, prompts, depth, tmp_path)
    assert found.count == 93 and found.largest < (1e-3 if family.gelu else 2e-5)
