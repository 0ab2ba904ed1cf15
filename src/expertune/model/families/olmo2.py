"""OLMo 2 and 3: post norms only, QK norms over all heads; OLMo 3 has sliding windows."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import HEAD_NORMS, POST_NORMS, Keys, decoder, plain_rope, sliding_layers, with_window

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/olmo2.cpp. RoPE of layers with a window is not scaled."""
    keys = Keys(file)
    base = decoder(file, neox_style=True, tensors=(*PARTS, *HEAD_NORMS, *POST_NORMS))
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    local = plain_rope(keys.real("rope.freq_base", 10000.0), base.layers[0].heads.width, neox_style=True)
    return with_window(base, sliding_layers(keys, len(base.layers), period=4), window, local)
