"""Gemma 2: soft caps on scores and logits, a sliding window in every second layer, post norms."""

from __future__ import annotations

import math
from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, POST_NORMS, Keys, decoder, map_layers, sliding_layers, with_window
from .gemma import with_gelu_and_scaled_embeddings

LAYERS_OF_27B = 46  # the only size whose scores are scaled by the model width instead of the head width


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma2.cpp."""
    keys = Keys(file)
    base = decoder(file, neox_style=True, scale=score_scale(keys, LAYERS_OF_27B), tensors=(*DENSE, *POST_NORMS))
    base = with_gelu_and_scaled_embeddings(base)
    base = replace(base, logit_softcap=keys.real("final_logit_softcapping", 30.0))
    softcap = keys.real("attn_logit_softcapping", 50.0)
    base = map_layers(base, lambda _, layer: replace(layer, heads=replace(layer.heads, softcap=softcap)))
    sliding = sliding_layers(keys, len(base.layers), period=2)
    return with_window(base, sliding, keys.count("attention.sliding_window", 4096))


def score_scale(keys: Keys, layers_of_27b: int) -> float:
    """Scale of the attention scores, 0 for the usual one; no metadata key holds it."""
    if keys.count("block_count") != layers_of_27b:
        return 0.0
    return 1.0 / math.sqrt(keys.count("embedding_length") // keys.count("attention.head_count"))
