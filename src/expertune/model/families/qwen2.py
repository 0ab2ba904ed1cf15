"""Qwen 2 and 2.5, DeepSeek's distills of it."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, decoder


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen2.cpp."""
    return decoder(file, halves=True, optional=ATTENTION_BIASES)
