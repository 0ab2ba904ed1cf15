"""Command R7B and Command A: Command R with sliding windows, and without RoPE in the layers that have no window."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import Keys, map_layers, sliding_layers, with_window
from .command_r import cohere


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/cohere2.cpp."""
    keys = Keys(file)
    base = cohere(file)
    sliding = sliding_layers(keys, len(base.layers), period=4)
    base = with_window(base, sliding, keys.count("attention.sliding_window"))
    return map_layers(base, lambda index, layer: layer if sliding[index] else replace(layer, rope=None))
