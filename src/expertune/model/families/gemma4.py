"""Gemma 4, the text part: two kinds of heads, keys that later layers use again, layers with their own view of a token.

The small ones (E2B, E4B) have the own view and lend keys, 31B has values that are the keys, 26B has experts.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import LayerConfig, ModelConfig
from ..hparams import (
    DENSE,
    EXPERTS,
    HEAD_NORMS,
    POST_NORMS,
    Keys,
    decoder,
    every,
    mixture,
    plain_rope,
    read_rope,
    slides,
)

EXPERT_NORMS = ("ffn_gate_inp.scale", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
OWN_INPUT = ("inp_gate", "proj", "post_norm")
BORROWED = ("attn_k", "attn_v", "attn_k_norm")


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/gemma4.cpp. Scores are not scaled; the rotation's factors are for whole layers only."""
    keys = Keys(file)
    own_input = int(keys.get("embedding_length_per_layer_input", 0))
    experts = mixture(file) if keys.get("expert_count", 0) else None
    mixed, own = (*EXPERTS, *EXPERT_NORMS) if experts else (), OWN_INPUT if own_input else ()
    base = decoder(
        file,
        halves=True,
        scale=1.0,
        tensors=(*DENSE, *HEAD_NORMS, *POST_NORMS, *mixed, *own),
        optional=("layer_output_scale", "ffn_down_exps.scale"),
        activation="gelu",
        embedding_scale=math.sqrt(keys.count("embedding_length")),
        logit_cap=keys.real("final_logit_softcapping", 0.0),
        experts=experts,
        normed_values=True,
        own_input=own_input,
    )
    return _two_kinds(keys, base)


def _two_kinds(keys: Keys, base: ModelConfig) -> ModelConfig:
    """Layers with a window have smaller heads and a rotation of their own; the last layers borrow keys."""
    count, file = len(base.layers), keys.file
    sliding, window = slides(keys, count, period=6), keys.count("attention.sliding_window")
    width, whole_width = keys.count("attention.key_length_swa"), base.layers[0].heads.width
    if keys.count("attention.value_length_swa", width) != width:
        raise keys.refuse("a model whose keys and values have different widths")
    local = plain_rope(
        keys.real("rope.freq_base_swa", 10000.0), keys.rotated(width, "rope.dimension_count_swa"), halves=True
    )
    whole = read_rope(keys, whole_width, halves=True)
    lenders = count - int(keys.get("attention.shared_kv_layers", 0))

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        heads, rope = layer.heads, whole
        if sliding[index]:
            heads, rope = replace(heads, width=width, window=window), local
        tensors, keys_of = layer.tensors, None
        if index >= lenders:
            keys_of = lenders - (2 if sliding[index] else 1)
            tensors = tuple(name for name in tensors if name not in BORROWED)
        elif f"blk.{index}.attn_v.weight" not in file.tensors:
            tensors = tuple(name for name in tensors if name != "attn_v")
        optional = (*layer.optional, *BORROWED)
        return replace(layer, heads=heads, rope=rope, tensors=tensors, optional=optional, keys_of=keys_of)

    return every(base, change)
