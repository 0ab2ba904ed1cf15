"""Qwen 3, mixtures of experts."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, EXPERTS, HEAD_NORMS, Keys, decoder, mixture


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen3moe.cpp."""
    keys = Keys(file)
    experts = mixture(file, width=keys.count("feed_forward_length") // keys.count("expert_used_count"))
    return decoder(file, halves=True, tensors=(*ATTENTION, *HEAD_NORMS, *EXPERTS), experts=experts)
