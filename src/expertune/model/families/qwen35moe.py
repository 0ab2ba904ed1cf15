"""Qwen 3.5 and 3.6, mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import mixture
from .qwen3next import MIXED, hybrid
from .qwen35 import check_rope_sections


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen35moe.cpp."""
    check_rope_sections(file)
    base = hybrid(file, feed_forward=MIXED, key_repeat="tile", fused_beta_alpha=False)
    return replace(base, experts=mixture(file))
