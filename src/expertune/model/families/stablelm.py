"""StableLM 2: layer norms, a part of each head turns; the 12B feeds attention and feed-forward side by side."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, HEAD_NORMS, decoder

ATTENTION_PART = (*ATTENTION, "attn_norm.bias")
FEED_FORWARD_PART = ("ffn_gate", "ffn_up", "ffn_down")


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/stablelm.cpp."""
    parallel = "blk.0.ffn_norm.weight" not in file.tensors
    norm = () if parallel else ("ffn_norm", "ffn_norm.bias")
    return decoder(
        file,
        halves=True,
        tensors=(*ATTENTION_PART, *norm, *FEED_FORWARD_PART),
        optional=(*HEAD_NORMS, "attn_q.bias", "attn_k.bias", "attn_v.bias"),
        centred=True,
        parallel=parallel,
    )
