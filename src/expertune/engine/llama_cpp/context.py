"""The largest context in which llama.cpp serves a model as it was trained.

Sources: llama.cpp as of xllamacpp 2026.10, `get_rope_factors` in src/llama-model.cpp and src/llama-context.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...gguf.read import GGUFFile

LONG_FACTORS = "rope_factors_long.weight"
STEP = 256  # tokens: llama.cpp rounds the context of a slot up to whole steps


def largest_context(path: Path, metadata: Mapping[str, Any]) -> int:
    """Tokens that a request to the model may hold: its training context, 1 where the file does not name one.

    A model with long RoPE factors (phi3) is another model above its original context: llama.cpp then uses them for
    every token, also of a short prompt, where the model was tuned with the short ones. One whose queries are scaled
    up beyond some context (mistral3) is tuned without that scaling. `metadata` are those of gguf.read.read_metadata.
    """
    length, original, scale, unscaled = (
        metadata.get(f"{metadata.get('general.architecture')}.{key}")
        for key in (
            "context_length",
            "rope.scaling.original_context_length",
            "attention.temperature_scale",
            "attention.temperature_length",
        )
    )
    trained = length if isinstance(length, int) else 1
    limit = (unscaled or original) if scale else original
    if not isinstance(limit, int) or not 0 < limit < trained:
        return trained
    if not scale:
        with GGUFFile(path) as file:
            if LONG_FACTORS not in file.tensors:
                return trained
    return limit // STEP * STEP or limit
