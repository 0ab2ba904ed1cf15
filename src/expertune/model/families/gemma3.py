"""Gemma 3, the text part: norms on queries and keys; five of six layers see a window and turn by a slower base."""

from __future__ import annotations

import math

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, HEAD_NORMS, POST_NORMS, Keys, decoder, plain_rope, slides, windowed
from .gemma2 import score_scale

LAYERS_OF_27B = 62


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma3.cpp."""
    keys = Keys(file)
    base = decoder(
        file,
        halves=True,
        scale=score_scale(keys, LAYERS_OF_27B),
        tensors=(*DENSE, *HEAD_NORMS, *POST_NORMS),
        activation="gelu",
        embedding_scale=math.sqrt(keys.count("embedding_length")),
        logit_cap=keys.real("final_logit_softcapping", 0.0),
    )
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    width = base.layers[0].heads.width
    local = plain_rope(keys.real("rope.freq_base_swa", 10000.0), keys.rotated(width), halves=True)
    return windowed(base, slides(keys, len(base.layers), period=6), window, local)
