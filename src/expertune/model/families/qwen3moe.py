"""Qwen 3, mixtures of experts."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..metadata import ATTENTION, EXPERTS, HEAD_NORMS, Keys, decoder, mixture
from ..spec import Spec


def spec(file: GGUFFile) -> Spec:
    """llama.cpp: src/models/qwen3moe.cpp."""
    keys = Keys(file)
    experts = mixture(file, width=keys.count("feed_forward_length") // keys.count("expert_used_count"))
    return decoder(file, halves=True, tensors=(*ATTENTION, *HEAD_NORMS, *EXPERTS), experts=experts)
