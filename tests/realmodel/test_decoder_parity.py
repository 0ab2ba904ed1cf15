"""Our decoder against llama.cpp on two real models: hidden states, and the labels' probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.real_models import MODELS, Unavailable, fetch

import tiny
from decoder_parity import score_differences, state_differences
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config
from label_sets import LABEL_SETS

pytestmark = pytest.mark.realmodel

VISITS = (
    "Cough and fever for three days. Discharge diagnosis: pneumonia.",
    "Fell from a ladder, pain in the left ankle.",
    "Shortness of breath since last night; no fever; known asthma. Rated moderate by triage.",
)


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> Path:
    try:
        return fetch(request.param)
    except Unavailable as reason:
        pytest.skip(str(reason))


def prompts_of(model: Path) -> tuple[list[str], list[list[int]]]:
    with LlamaCppEngine(model, context=512, threads=1) as engine:
        asks = [[{"role": "user", "content": f"Rate this record. {visit}"}] for visit in VISITS]
        prompts = [engine.render(ask) for ask in asks]
        return prompts, [engine.tokenize(prompt) for prompt in prompts]


def test_states_equal_llama_cpps(model: Path, tmp_path: Path) -> None:
    with GGUFFile(model) as file:
        blocks = len(read_config(file).layers)
    for depth in (blocks // 2, blocks):
        found = state_differences(model, prompts_of(model)[1], depth, tmp_path)
        # llama.cpp reads Gemma's GELU from a table in half precision
        limit = 5e-3 if "gemma" in model.name else 5e-5
        assert found.largest < limit and found.mean < limit / 5, depth


def test_probabilities_of_the_labels_equal_llama_cpps(model: Path, tmp_path: Path) -> None:
    """From float32 weights; llama.cpp keeps keys and values in half precision."""
    unpacked = tiny.unpack(model, tmp_path / "f32.gguf")
    found, same = score_differences(unpacked, model, prompts_of(model)[0], LABEL_SETS["english"])
    unpacked.unlink()
    assert found.largest < 5e-3 and same == 1.0
