"""StarCoder 2: layer norms, biases everywhere, a feed-forward without gate."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, decoder

FEED_FORWARD = ("ffn_norm", "ffn_norm.bias", "ffn_up", "ffn_up.bias", "ffn_down", "ffn_down.bias")


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/starcoder2.cpp."""
    return decoder(
        file,
        halves=True,
        tensors=(*ATTENTION, "attn_norm.bias", *FEED_FORWARD),
        optional=ATTENTION_BIASES,
        activation="gelu",
        gated=False,
        centred=True,
    )
