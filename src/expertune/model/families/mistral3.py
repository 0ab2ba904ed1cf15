"""Ministral 3, Mistral Small 3.2, Devstral 2: llama, whose queries grow behind the context of the first training.

They are tuned and served within that context only (engine.llama_cpp.context.largest_context), where they are llama.
"""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from . import llama


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/mistral3.cpp."""
    return llama.spec(file)
