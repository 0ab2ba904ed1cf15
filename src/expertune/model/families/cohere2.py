"""Command R7B and Command A: Command R whose windowed layers turn and whose other layers do not."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, Keys, decoder, every, slides, windowed


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/cohere2.cpp."""
    keys = Keys(file)
    base = decoder(
        file,
        tensors=(*ATTENTION, "ffn_gate", "ffn_up", "ffn_down"),
        centred=True,
        parallel=True,
        logit_scale=keys.real("logit_scale", 1.0) or 1.0,
    )
    sliding = slides(keys, len(base.layers), period=4)
    base = windowed(base, sliding, keys.count("attention.sliding_window"))
    return every(base, lambda index, layer: layer if sliding[index] else replace(layer, rope=None))
