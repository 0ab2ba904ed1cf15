"""Qwen 2 and 2.5, DeepSeek's distills of it."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..metadata import ATTENTION_BIASES, decoder
from ..spec import Spec


def spec(file: GGUFFile) -> Spec:
    """llama.cpp: src/models/qwen2.cpp."""
    return decoder(file, halves=True, optional=ATTENTION_BIASES)
