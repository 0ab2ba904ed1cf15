"""LFM 2: short convolutions, and attention with QK norms in some layers."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import LayerConfig, ModelConfig
from ..hparams import ATTENTION, FEED_FORWARD, HEAD_NORMS, Keys, decoder, map_layers

CONVOLUTION = ("attn_norm", "shortconv.in_proj", "shortconv.conv", "shortconv.out_proj")


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/lfm2.cpp. Layers without key heads are convolutions; token_embd_norm is the output norm."""
    conv_kernel = Keys(file).count("shortconv.l_cache")
    base = decoder(file, neox_style=True, tensors=(*ATTENTION, *HEAD_NORMS, *FEED_FORWARD))

    def change(_: int, layer: LayerConfig) -> LayerConfig:
        if layer.heads.keys:
            return layer
        return replace(layer, tensors=(*CONVOLUTION, *FEED_FORWARD), conv_kernel=conv_kernel, rope=None)

    return map_layers(replace(base, output_norm="token_embd_norm"), change)
