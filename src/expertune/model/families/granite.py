"""Granite 3: Llama with scaled embeddings, scores, residuals and logits."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, DENSE, FEED_FORWARD_BIASES, Keys, decoder, map_layers


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/granite.cpp."""
    return granite(file, tensors=DENSE, optional=(*ATTENTION_BIASES, *FEED_FORWARD_BIASES))


def granite(file: GGUFFile, *, tensors: tuple[str, ...], optional: tuple[str, ...] = ()) -> ModelConfig:
    """Decoder with Granite's scales; without RoPE if the file says so."""
    keys = Keys(file)
    base = replace(
        decoder(file, scale=keys.real("attention.scale", 0.0), tensors=tensors, optional=optional),
        embedding_scale=keys.real("embedding_scale", 1.0) or 1.0,
        residual_scale=keys.real("residual_scale", 1.0) or 1.0,
        logit_scale=1.0 / keys.real("logit_scale", 1.0),
    )
    if keys.get("rope.scaling.finetuned", True):
        return base
    return map_layers(base, lambda _, layer: replace(layer, rope=None))
