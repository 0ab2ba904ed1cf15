"""Qwen 3.5 and 3.6, dense: linear attention in three of four layers, gated attention in the fourth."""

from __future__ import annotations

from collections.abc import Sequence

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import FEED_FORWARD, Keys
from .qwen3next import hybrid


def model_config(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen35.cpp."""
    check_rope_sections(file)
    return hybrid(file, feed_forward=FEED_FORWARD[1:], key_repeat="tile", fused_beta_alpha=False)


def check_rope_sections(file: GGUFFile) -> None:
    """Refuse RoPE sections that leave out pairs, which text would not rotate; all other sections are equal for text."""
    keys = Keys(file)
    sections: Sequence[int] = keys.get("rope.dimension_sections", ())
    if sections and 2 * sum(sections[:3]) < keys.count("rope.dimension_count", keys.count("attention.key_length")):
        raise keys.refuse("RoPE sections that leave out pairs")
