"""Granite 3: llama with scales on embeddings, scores, residuals and logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, FEED_FORWARD_BIASES, Keys, decoder, every


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/granite.cpp."""
    return scaled(file, optional=(*ATTENTION_BIASES, *FEED_FORWARD_BIASES))


def scaled(file: GGUFFile, **settings: Any) -> ModelConfig:
    """A decoder with Granite's scales; without rotary positions where the file says so."""
    keys = Keys(file)
    base = decoder(
        file,
        scale=keys.real("attention.scale", 0.0),
        embedding_scale=keys.real("embedding_scale", 1.0) or 1.0,
        residual_scale=keys.real("residual_scale", 1.0) or 1.0,
        logit_scale=1.0 / keys.real("logit_scale", 1.0),
        **settings,
    )
    if keys.get("rope.scaling.finetuned", True):
        return base
    return every(base, lambda _, layer: replace(layer, rope=None))
