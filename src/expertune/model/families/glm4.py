"""GLM 4: gate and up in one matrix, pre and post norms, RoPE on half of each head."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, POST_NORMS, Keys, decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/glm4.cpp."""
    keys = Keys(file)
    if keys.get("rope.dimension_sections"):
        raise keys.refuse("a GLM 4 with vision")
    return decoder(
        file,
        tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down", *POST_NORMS),
        optional=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
    )
