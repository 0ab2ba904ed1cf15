"""The context of models that are another model above their original context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import families
from expertune.engine.llama_cpp.context import largest_context
from expertune.gguf.read import read_metadata


@pytest.mark.parametrize(
    ("original", "expected"), [(512, 512), (600, 512), (100, 100), (4096, 1024), (0, 1024)], ids=str
)
def test_the_context_of_a_model_with_long_factors(tmp_path: Path, original: int, expected: int):
    """Whole steps of llama.cpp's, which rounds up: 600 would be served as 768."""
    phi3 = families.FAMILIES["phi3"]
    family = replace(phi3, keys=lambda z: {**phi3.keys(z), "rope.scaling.original_context_length": original})
    path = families.make(tmp_path / "model.gguf", family, context=1024)
    assert largest_context(path, read_metadata(path)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 128), ({"attention.temperature_length": 300}, 256), ({"attention.temperature_scale": 0.0}, 1024)],
    ids=["original", "its own", "none"],
)
def test_the_context_of_a_model_whose_queries_are_scaled(tmp_path: Path, keys: dict[str, float], expected: int):
    mistral3 = families.FAMILIES["mistral3"]
    family = replace(mistral3, keys=lambda z: {**mistral3.keys(z), **keys})
    path = families.make(tmp_path / "model.gguf", family, context=1024)
    assert largest_context(path, read_metadata(path)) == expected
