"""Gemma 1: scaled embeddings and a GELU gate. Its norms hold 1 + w in the GGUF."""

from __future__ import annotations

import math

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import Keys, decoder


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma.cpp."""
    width = Keys(file).count("embedding_length")
    return decoder(file, halves=True, activation="gelu", embedding_scale=math.sqrt(width))
