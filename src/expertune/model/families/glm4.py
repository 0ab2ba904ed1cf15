"""GLM 4: gate and up in one matrix, norms before and behind each part, half of each head turns."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..metadata import ATTENTION, POST_NORMS, Keys, decoder
from ..spec import Spec


def spec(file: GGUFFile) -> Spec:
    """llama.cpp: src/models/glm4.cpp."""
    keys = Keys(file)
    if keys.get("rope.dimension_sections"):
        raise keys.refuse("a GLM 4 for pictures")
    return decoder(
        file,
        tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down", *POST_NORMS),
        optional=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
    )
