"""Command R: layer norms without bias, attention and feed-forward side by side, scaled logits."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, HEAD_NORMS, Keys, decoder


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/command-r.cpp. The larger model has norms on queries and keys."""
    return decoder(
        file,
        tensors=(*ATTENTION, "ffn_gate", "ffn_up", "ffn_down"),
        optional=(*HEAD_NORMS, *ATTENTION_BIASES),
        centred=True,
        parallel=True,
        logit_scale=Keys(file).real("logit_scale", 1.0) or 1.0,
    )
