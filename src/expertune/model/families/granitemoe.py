"""Granite 3, mixtures of experts, some with an expert that every token uses."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, EXPERTS, SHARED_EXPERT, Keys, mixture
from .granite import scaled


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/granite.cpp."""
    keys = Keys(file)
    shared = SHARED_EXPERT if keys.get("expert_shared_feed_forward_length", 0) else ()
    experts = mixture(file, width=keys.count("feed_forward_length"))
    return scaled(file, tensors=(*ATTENTION, *EXPERTS, *shared), experts=experts)
