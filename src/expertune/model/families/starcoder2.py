"""StarCoder 2: LayerNorm, biases everywhere, a feed-forward without a gate."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, decoder

FEED_FORWARD = ("ffn_norm", "ffn_norm.bias", "ffn_up", "ffn_up.bias", "ffn_down", "ffn_down.bias")


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/starcoder2.cpp."""
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION, "attn_norm.bias", *FEED_FORWARD),
        optional=ATTENTION_BIASES,
        layernorm=True,
    )
    return replace(base, activation="gelu", gated=False)
