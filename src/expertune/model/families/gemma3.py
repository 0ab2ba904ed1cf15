"""Gemma 3, text part: QK norms; five of six layers have a sliding window and a RoPE of their own."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, HEAD_NORMS, POST_NORMS, Keys, decoder, plain_rope, sliding_layers, with_window
from .gemma import with_gelu_and_scaled_embeddings
from .gemma2 import score_scale

LAYERS_OF_27B = 62


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma3.cpp."""
    keys = Keys(file)
    base = decoder(
        file,
        neox_style=True,
        scale=score_scale(keys, LAYERS_OF_27B),
        tensors=(*DENSE, *HEAD_NORMS, *POST_NORMS),
    )
    base = with_gelu_and_scaled_embeddings(base)
    base = replace(base, logit_softcap=keys.real("final_logit_softcapping", 0.0))
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    width = base.layers[0].heads.width
    local = plain_rope(keys.real("rope.freq_base_swa", 10000.0), keys.rotated(width), neox_style=True)
    return with_window(base, sliding_layers(keys, len(base.layers), period=6), window, local)
