"""Llama and the architectures that differ from it by scales, experts or layers without RoPE."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import ModelConfig
from ..hparams import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE,
    EXPERTS,
    FEED_FORWARD_BIASES,
    SHARED_EXPERT,
    Keys,
    decoder,
    map_layers,
    mixture,
)

BIASES = (*ATTENTION_BIASES, *FEED_FORWARD_BIASES)


def llama(file: GGUFFile) -> ModelConfig:
    """Llama 2 and 3, Mistral, TinyLlama, SmolLM, DeepSeek's distillations into Llama; Mixtral with experts.

    llama.cpp: src/models/llama.cpp; of Ministral 3, Mistral Small 3.2 and Devstral 2: src/models/mistral3.cpp.
    """
    keys = Keys(file)
    scale = keys.real("attention.scale", 0.0)
    if not keys.get("expert_count", 0):
        return decoder(file, scale=scale, optional=BIASES)
    experts = mixture(file, width=keys.count("feed_forward_length"))
    return replace(
        decoder(file, scale=scale, tensors=(*ATTENTION, *EXPERTS), optional=ATTENTION_BIASES), experts=experts
    )


def granite(file: GGUFFile) -> ModelConfig:
    """Granite 3: Llama with scaled embeddings, scores, residuals and logits. llama.cpp: src/models/granite.cpp."""
    return _granite(file, tensors=DENSE, optional=BIASES)


def granitemoe(file: GGUFFile) -> ModelConfig:
    """Granite 3, mixture of experts, some models with a shared expert. llama.cpp: src/models/granite.cpp."""
    keys = Keys(file)
    shared = SHARED_EXPERT if keys.get("expert_shared_feed_forward_length", 0) else ()
    experts = mixture(file, width=keys.count("feed_forward_length"))
    return replace(_granite(file, tensors=(*ATTENTION, *EXPERTS, *shared)), experts=experts)


def _granite(file: GGUFFile, *, tensors: tuple[str, ...], optional: tuple[str, ...] = ()) -> ModelConfig:
    """Decoder with Granite's scales; without RoPE if the file says so."""
    keys = Keys(file)
    base = replace(
        decoder(file, scale=keys.real("attention.scale", 0.0), tensors=tensors, optional=optional),
        embedding_scale=keys.real("embedding_scale", 1.0) or 1.0,
        residual_scale=keys.real("residual_scale", 1.0) or 1.0,
        logit_scale=1.0 / keys.real("logit_scale", 1.0),
    )
    if keys.get("rope.scaling.finetuned", True):
        return base
    return map_layers(base, lambda _, layer: replace(layer, rope=None))


def smollm3(file: GGUFFile) -> ModelConfig:
    """SmolLM 3: Llama without RoPE in every fourth layer (no key says so). llama.cpp: src/models/smollm3.cpp."""
    base = decoder(file, scale=Keys(file).real("attention.scale", 0.0), optional=BIASES)
    return map_layers(base, lambda index, layer: replace(layer, rope=layer.rope if (index + 1) % 4 else None))
