"""Cohere's models: LayerNorm without bias, parallel residual, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, HEAD_NORMS, Keys, decoder, map_layers, sliding_layers, with_window


def command_r(file: GGUFFile) -> ModelConfig:
    """Command R; the larger model has QK norms. llama.cpp: src/models/command-r.cpp."""
    return _cohere(file, optional=(*HEAD_NORMS, *ATTENTION_BIASES))


def cohere2(file: GGUFFile) -> ModelConfig:
    """Command R7B and Command A: sliding windows, and no RoPE in the layers that have no window.

    llama.cpp: src/models/cohere2.cpp.
    """
    keys, base = Keys(file), _cohere(file)
    sliding = sliding_layers(keys, len(base.layers), period=4)
    base = with_window(base, sliding, keys.count("attention.sliding_window"))
    return map_layers(base, lambda index, layer: layer if sliding[index] else replace(layer, rope=None))


def _cohere(file: GGUFFile, *, optional: tuple[str, ...] = ()) -> ModelConfig:
    base = decoder(file, tensors=(*ATTENTION, "ffn_gate", "ffn_up", "ffn_down"), optional=optional, layernorm=True)
    return replace(base, parallel_residual=True, logit_scale=Keys(file).real("logit_scale", 1.0) or 1.0)
