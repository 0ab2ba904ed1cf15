"""Llama 2 and 3, Mistral, TinyLlama, SmolLM, DeepSeek's distillations into Llama; Mixtral with experts."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, DENSE, EXPERTS, FEED_FORWARD_BIASES, Keys, decoder, mixture


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/llama.cpp."""
    keys = Keys(file)
    scale = keys.real("attention.scale", 0.0)
    if not keys.get("expert_count", 0):
        return decoder(file, scale=scale, tensors=DENSE, optional=(*ATTENTION_BIASES, *FEED_FORWARD_BIASES))
    experts = mixture(file, width=keys.count("feed_forward_length"))
    base = decoder(file, scale=scale, tensors=(*ATTENTION, *EXPERTS), optional=ATTENTION_BIASES)
    return replace(base, experts=experts)
