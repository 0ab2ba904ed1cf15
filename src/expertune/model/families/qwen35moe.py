"""Qwen 3.5 and 3.6, mixtures of experts."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import mixture
from .qwen3next import MIXED, hybrid
from .qwen35 import text_positions


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen35moe.cpp."""
    text_positions(file)
    return hybrid(file, feed_forward=MIXED, experts=mixture(file), neighbours=False, joined=False)
