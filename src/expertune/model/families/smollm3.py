"""SmolLM 3: Llama, but without RoPE in every fourth layer."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, FEED_FORWARD_BIASES, Keys, decoder, map_layers

INTERVAL = 4  # no metadata key holds it


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/smollm3.cpp."""
    base = decoder(
        file,
        scale=Keys(file).real("attention.scale", 0.0),
        optional=(*ATTENTION_BIASES, *FEED_FORWARD_BIASES),
    )
    return map_layers(base, lambda index, layer: replace(layer, rope=layer.rope if (index + 1) % INTERVAL else None))
