"""Command R: LayerNorm without bias, parallel residual, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, HEAD_NORMS, Keys, decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/command-r.cpp. The larger model has QK norms."""
    return cohere(file, optional=(*HEAD_NORMS, *ATTENTION_BIASES))


def cohere(file: GGUFFile, *, optional: tuple[str, ...] = ()) -> ModelConfig:
    """Decoder of Cohere's models."""
    base = decoder(file, tensors=(*ATTENTION, "ffn_gate", "ffn_up", "ffn_down"), optional=optional, layernorm=True)
    return replace(base, parallel_residual=True, logit_scale=Keys(file).real("logit_scale", 1.0) or 1.0)
