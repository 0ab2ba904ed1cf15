"""gpt-oss: a mixture of experts with biases and a bounded gate, sinks in attention, windows in every second layer."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, Keys, decoder, mixture, slides, windowed

EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SINKS = "attn_sinks"


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/openai-moe.cpp. The norm before the experts is called the one behind attention."""
    keys = Keys(file)
    base = decoder(
        file,
        halves=True,
        tensors=(*ATTENTION, *ATTENTION_BIASES, SINKS, "post_attention_norm", *EXPERTS),
        optional=tuple(f"{name}.bias" for name in EXPERTS),
        activation="bounded",
        experts=mixture(file),
        feed_forward_norm="post_attention_norm",
    )
    return windowed(base, slides(keys, len(base.layers), period=2), keys.count("attention.sliding_window"))
