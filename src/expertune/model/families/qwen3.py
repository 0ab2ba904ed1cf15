"""Qwen 3, dense: every head's queries and keys have a norm."""

from __future__ import annotations

from ...gguf.read import GGUFFile
from ..metadata import DENSE, HEAD_NORMS, decoder
from ..spec import Spec


def spec(file: GGUFFile) -> Spec:
    """llama.cpp: src/models/qwen3.cpp."""
    return decoder(file, halves=True, tensors=(*DENSE, *HEAD_NORMS))
