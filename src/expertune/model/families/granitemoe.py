"""Granite 3, mixture of experts, some models with a shared expert."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, EXPERTS, SHARED_EXPERT, Keys, mixture
from .granite import granite


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/granite.cpp."""
    keys = Keys(file)
    shared = SHARED_EXPERT if keys.get("expert_shared_feed_forward_length", 0) else ()
    experts = mixture(file, width=keys.count("feed_forward_length"))
    return replace(granite(file, tensors=(*ATTENTION, *EXPERTS, *shared)), experts=experts)
