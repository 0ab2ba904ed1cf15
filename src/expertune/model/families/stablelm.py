"""StableLM 2: LayerNorm, RoPE on a part of each head; the 12B has a parallel residual."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, HEAD_NORMS, decoder

ATTENTION_PART = (*ATTENTION, "attn_norm.bias")
FEED_FORWARD_PART = ("ffn_gate", "ffn_up", "ffn_down")


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/stablelm.cpp."""
    parallel_residual = "blk.0.ffn_norm.weight" not in file.tensors
    norm = () if parallel_residual else ("ffn_norm", "ffn_norm.bias")
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION_PART, *norm, *FEED_FORWARD_PART),
        optional=(*HEAD_NORMS, "attn_q.bias", "attn_k.bias", "attn_v.bias"),
        layernorm=True,
    )
    return replace(base, parallel_residual=parallel_residual)
