"""LFM 2: short convolutions, and attention with norms on queries and keys in some layers."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import LayerConfig, ModelConfig
from ..hparams import ATTENTION, FEED_FORWARD, HEAD_NORMS, Keys, decoder, every

CONVOLUTION = ("attn_norm", "shortconv.in_proj", "shortconv.conv", "shortconv.out_proj")


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/lfm2.cpp. A layer without key heads is a convolution; the last norm has an old name."""
    taps = Keys(file).count("shortconv.l_cache")
    base = decoder(file, halves=True, tensors=(*ATTENTION, *HEAD_NORMS, *FEED_FORWARD), output_norm="token_embd_norm")

    def change(_: int, layer: LayerConfig) -> LayerConfig:
        if layer.heads.keys:
            return layer
        return replace(layer, tensors=(*CONVOLUTION, *FEED_FORWARD), taps=taps, rope=None)

    return every(base, change)
