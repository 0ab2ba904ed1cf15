"""Qwen 3.5 and 3.6, dense: linear attention in three of four layers, gated attention in the fourth."""

from __future__ import annotations

from collections.abc import Sequence

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import FEED_FORWARD, Keys
from .qwen3next import hybrid


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen35.cpp."""
    text_positions(file)
    return hybrid(file, feed_forward=FEED_FORWARD[1:], neighbours=False, joined=False)


def text_positions(file: GGUFFile) -> None:
    """In text all sections of the rotation turn alike, unless some pairs belong to none, which would not turn."""
    keys = Keys(file)
    sections: Sequence[int] = keys.get("rope.dimension_sections", ())
    if sections and 2 * sum(sections[:3]) < keys.count("rope.dimension_count", keys.count("attention.key_length")):
        raise keys.refuse("a rotation with pairs that stand still in text")
