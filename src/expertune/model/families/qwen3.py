"""Qwen 3, dense: QK norms per head."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, HEAD_NORMS, decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen3.cpp."""
    return decoder(file, neox_style=True, tensors=(*DENSE, *HEAD_NORMS))
