"""Qwen 3, dense: every head's queries and keys have a norm."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import DENSE, HEAD_NORMS, decoder


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen3.cpp."""
    return decoder(file, halves=True, tensors=(*DENSE, *HEAD_NORMS))
