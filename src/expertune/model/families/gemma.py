"""Gemma 1: scaled embeddings and a GELU gate. Its norms hold 1 + w in the GGUF."""

from __future__ import annotations

import math

from ...gguf.read import GGUFFile
from ..metadata import Keys, decoder
from ..spec import Spec


def spec(file: GGUFFile) -> Spec:
    """llama.cpp: src/models/gemma.cpp."""
    width = Keys(file).count("embedding_length")
    return decoder(file, halves=True, activation="gelu", embedding_scale=math.sqrt(width))
