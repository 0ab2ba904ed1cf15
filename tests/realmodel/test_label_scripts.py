"""Labels in other scripts on two real vocabularies: SmolLM2 cuts most characters outside ASCII, Gemma hardly any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.real_models import MODELS, Unavailable, fetch

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.ratings.scale import answer_opening
from label_sets import ASK, LABEL_SETS, Decoder, split, summed

pytestmark = pytest.mark.realmodel

NAMES = ["chinese", "french", "german", "symbol", "hebrew", "emoji"]
ACTIVATION_ROUNDING = 0.3  # nats in one token: with packed weights llama.cpp rounds activations to 8 bits
CACHE_ROUNDING = 5e-3  # nats in one token: llama.cpp keeps keys and values in half precision


def model(name: str) -> Path:
    try:
        return fetch(name)
    except Unavailable as reason:
        pytest.skip(str(reason))


def check(path: Path, tolerance: float) -> int:
    """Compare every set's scores with our decoder's; the number of tokens that llama.cpp lists nothing for."""
    decoder = Decoder(path, cached=True)
    with LlamaCppEngine(path, context=512, threads=1) as engine:
        prompt = engine.render(ASK)
        for name in NAMES:
            labels = LABEL_SETS[name]
            start, tails = split(engine, prompt, labels)
            expected = summed(start, tails, decoder.log_probs)
            scores = engine.score(prompt, [answer_opening(label) for label in labels]).log_probs
            for score, right, tail in zip(scores, expected, tails, strict=True):
                assert score == pytest.approx(right, abs=tolerance * len(tail)), name
        decoder.close()
        return len(engine._unlisted)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_scores_are_our_decoders_but_for_rounding(name: str) -> None:
    unlisted = check(model(name), ACTIVATION_ROUNDING)
    assert (unlisted > 0) == (name == "smollm2")


@pytest.fixture
def unpacked(tmp_path: Path) -> Iterator[Path]:
    """SmolLM2 with all weights in float32, 540 MB."""
    path = tiny.unpack(model("smollm2"), tmp_path / "smollm2.gguf")
    yield path
    path.unlink()


def test_with_unpacked_weights_they_are_equal(unpacked: Path) -> None:
    assert check(unpacked, CACHE_ROUNDING) > 0
