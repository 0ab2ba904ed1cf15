"""OLMo 2 and 3: norms behind each part instead of before it, and over all heads; OLMo 3 has windows."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import HEAD_NORMS, POST_NORMS, Keys, decoder, plain_rope, slides, windowed

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/olmo2.cpp. Layers with a window turn without any scaling."""
    keys = Keys(file)
    base = decoder(file, halves=True, tensors=(*PARTS, *HEAD_NORMS, *POST_NORMS))
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    local = plain_rope(keys.real("rope.freq_base", 10000.0), base.layers[0].heads.width, halves=True)
    return windowed(base, slides(keys, len(base.layers), period=4), window, local)
