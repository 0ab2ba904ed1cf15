"""SmolLM 3: llama, but every fourth layer without positions."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, FEED_FORWARD_BIASES, Keys, decoder, every

STEP = 4  # no key says it


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/smollm3.cpp."""
    base = decoder(
        file,
        scale=Keys(file).real("attention.scale", 0.0),
        optional=(*ATTENTION_BIASES, *FEED_FORWARD_BIASES),
    )
    return every(base, lambda index, layer: replace(layer, rope=layer.rope if (index + 1) % STEP else None))
