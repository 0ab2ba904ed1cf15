"""Gemma 1: scaled embeddings and a GELU gate. The norm weights in the GGUF are 1 + w."""

from __future__ import annotations

import math
from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma.cpp."""
    return with_gelu_and_scaled_embeddings(decoder(file, neox_style=True))


def with_gelu_and_scaled_embeddings(base: ModelConfig) -> ModelConfig:
    """Settings common to all Gemma models."""
    return replace(base, activation="gelu", embedding_scale=math.sqrt(base.width))
