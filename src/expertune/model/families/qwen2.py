"""Qwen 2 and 2.5, DeepSeek's distillations into it."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION_BIASES, decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen2.cpp."""
    return decoder(file, neox_style=True, optional=ATTENTION_BIASES)
