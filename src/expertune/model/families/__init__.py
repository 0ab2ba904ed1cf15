"""One function per architecture, which reads its hyperparameters from an open GGUF. See docs/families.md.

The cited files are those of llama.cpp as of xllamacpp 2026.10.
"""

from __future__ import annotations

from collections.abc import Callable

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from . import gemma, llama, others, qwen

FAMILIES: dict[str, Callable[[GGUFFile], ModelConfig]] = {
    "cohere2": others.cohere2,
    "command-r": others.command_r,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3": gemma.gemma3,
    "gemma4": gemma.gemma4,
    "glm4": others.glm4,
    "gpt-oss": others.gpt_oss,
    "granite": llama.granite,
    "granitemoe": llama.granitemoe,
    "lfm2": others.lfm2,
    "llama": llama.llama,
    # scales queries beyond the context of pretraining; tuned and served within it only (engine.llama_cpp.context)
    "mistral3": llama.llama,
    "olmo2": others.olmo2,
    "phi3": others.phi3,
    "qwen2": qwen.qwen2,
    "qwen3": qwen.qwen3,
    "qwen3moe": qwen.qwen3moe,
    "qwen3next": qwen.qwen3next,
    "qwen35": qwen.qwen35,
    "qwen35moe": qwen.qwen35moe,
    "smollm3": llama.smollm3,
    "stablelm": others.stablelm,
    "starcoder2": others.starcoder2,
}
