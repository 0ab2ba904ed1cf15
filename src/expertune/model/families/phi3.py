"""Phi 3 and 4: queries, keys and values in one matrix, gate and up in another."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import ATTENTION, decoder


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/phi3.cpp, which ignores the window that some files declare."""
    return decoder(file, neox_style=True, tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down"))
