"""Qwen 3, mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, EXPERTS, HEAD_NORMS, Keys, decoder, mixture


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen3moe.cpp."""
    keys = Keys(file)
    experts = mixture(file, width=keys.count("feed_forward_length") // keys.count("expert_used_count"))
    base = decoder(file, neox_style=True, tensors=(*ATTENTION, *HEAD_NORMS, *EXPERTS))
    return replace(base, experts=experts)
