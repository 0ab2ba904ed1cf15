"""gpt-oss: a mixture of experts with biases and a clamped gate, attention sinks, a window in every second layer."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, ATTENTION_BIASES, Keys, decoder, mixture, sliding_layers, with_window

EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SINKS = "attn_sinks"
NORM = "post_attention_norm"  # the GGUF's name of the norm before the experts


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/openai-moe.cpp."""
    keys = Keys(file)
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION, *ATTENTION_BIASES, SINKS, NORM, *EXPERTS),
        optional=tuple(f"{name}.bias" for name in EXPERTS),
    )
    base = replace(base, activation="swiglu_oai", experts=mixture(file), feed_forward_norm=NORM)
    return with_window(base, sliding_layers(keys, len(base.layers), period=2), keys.count("attention.sliding_window"))
