"""GLM 4: gate and up in one matrix, norms before and behind each part, half of each head turns."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, POST_NORMS, Keys, decoder


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/glm4.cpp."""
    keys = Keys(file)
    if keys.get("rope.dimension_sections"):
        raise keys.refuse("a GLM 4 for pictures")
    return decoder(
        file,
        tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down", *POST_NORMS),
        optional=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
    )
