"""Gemma 2: soft caps on scores and logits, every second layer sees a window, norms behind each part."""

from __future__ import annotations

import math
from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, POST_NORMS, Keys, decoder, every, slides, windowed

LAYERS_OF_27B = 46  # the one size whose scores are scaled by the model's width, not the head's


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma2.cpp."""
    keys = Keys(file)
    base = decoder(
        file,
        halves=True,
        scale=score_scale(keys, LAYERS_OF_27B),
        tensors=(*DENSE, *POST_NORMS),
        activation="gelu",
        embedding_scale=math.sqrt(keys.count("embedding_length")),
        logit_cap=keys.real("final_logit_softcapping", 30.0),
    )
    cap = keys.real("attn_logit_softcapping", 50.0)
    base = every(base, lambda _, layer: replace(layer, heads=replace(layer.heads, cap=cap)))
    sliding = slides(keys, len(base.layers), period=2)
    return windowed(base, sliding, keys.count("attention.sliding_window", 4096))


def score_scale(keys: Keys, layers_of_27b: int) -> float:
    """The scale of the scores, 0 for the usual one; no key says it."""
    if keys.count("block_count") != layers_of_27b:
        return 0.0
    return 1.0 / math.sqrt(keys.count("embedding_length") // keys.count("attention.head_count"))
