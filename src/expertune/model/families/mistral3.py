"""Ministral 3, Mistral Small 3.2, Devstral 2: Llama, except that queries are scaled beyond the context of pretraining.

They are tuned and served within that context only (engine.llama_cpp.context.largest_context), where they equal Llama.
"""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from . import llama


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/mistral3.cpp."""
    return llama.model_config(file)
