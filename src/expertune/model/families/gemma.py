"""Google's Gemma models, text part: scaled embeddings and a GELU gate. The norm weights in the GGUF are 1 + w."""

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
    map_layers,
    mixture,
    plain_rope,
    read_rope,
    sliding_layers,
    with_window,
)

LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
EXPERT_NORMS = ("ffn_gate_inp.scale", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
PER_LAYER_EMBEDDING = ("inp_gate", "proj", "post_norm")
KEYS_AND_VALUES = ("attn_k", "attn_v", "attn_k_norm")


def gemma(file: GGUFFile) -> ModelConfig:
    """Gemma 1. llama.cpp: src/models/gemma.cpp."""
    return _with_gelu_and_scaled_embeddings(decoder(file, neox_style=True))


def gemma2(file: GGUFFile) -> ModelConfig:
    """Gemma 2: soft caps on scores and logits, a sliding window in every second layer, post norms.

    llama.cpp: src/models/gemma2.cpp.
    """
    keys = Keys(file)
    base = decoder(file, neox_style=True, scale=_score_scale(keys), tensors=(*DENSE, *POST_NORMS))
    base = _with_gelu_and_scaled_embeddings(base)
    base = replace(base, logit_softcap=keys.real("final_logit_softcapping", 30.0))
    softcap = keys.real("attn_logit_softcapping", 50.0)
    base = map_layers(base, lambda _, layer: replace(layer, heads=replace(layer.heads, softcap=softcap)))
    sliding = sliding_layers(keys, len(base.layers), period=2)
    return with_window(base, sliding, keys.count("attention.sliding_window", 4096))


def gemma3(file: GGUFFile) -> ModelConfig:
    """Gemma 3: QK norms; five of six layers have a sliding window and a RoPE of their own.

    llama.cpp: src/models/gemma3.cpp.
    """
    keys = Keys(file)
    tensors = (*DENSE, *HEAD_NORMS, *POST_NORMS)
    base = decoder(file, neox_style=True, scale=_score_scale(keys), tensors=tensors)
    base = _with_gelu_and_scaled_embeddings(base)
    base = replace(base, logit_softcap=keys.real("final_logit_softcapping", 0.0))
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    width = base.layers[0].heads.width
    local = plain_rope(keys.real("rope.freq_base_swa", 10000.0), keys.rotated(width), neox_style=True)
    return with_window(base, sliding_layers(keys, len(base.layers), period=6), window, local)


def gemma4(file: GGUFFile) -> ModelConfig:
    """Gemma 4: two widths of heads, keys and values shared between layers, per-layer embeddings.

    E2B and E4B have per-layer embeddings and shared keys and values; in 31B the values are the keys; 26B has experts.
    llama.cpp: src/models/gemma4.cpp. Scores are not scaled; RoPE factors apply only to layers without a window.
    """
    keys = Keys(file)
    per_layer_embedding_dim = int(keys.get("embedding_length_per_layer_input", 0))
    experts = mixture(file) if keys.get("expert_count", 0) else None
    mixed = (*EXPERTS, *EXPERT_NORMS) if experts else ()
    per_layer = PER_LAYER_EMBEDDING if per_layer_embedding_dim else ()
    base = decoder(
        file,
        neox_style=True,
        scale=1.0,
        tensors=(*DENSE, *HEAD_NORMS, *POST_NORMS, *mixed, *per_layer),
        optional=("layer_output_scale", "ffn_down_exps.scale"),
    )
    base = replace(
        _with_gelu_and_scaled_embeddings(base),
        logit_softcap=keys.real("final_logit_softcapping", 0.0),
        experts=experts,
        value_norm=True,
        per_layer_embedding_dim=per_layer_embedding_dim,
    )
    return _with_two_kinds_of_layers(keys, base)


def _with_gelu_and_scaled_embeddings(base: ModelConfig) -> ModelConfig:
    return replace(base, activation="gelu", embedding_scale=math.sqrt(base.width))


def _score_scale(keys: Keys) -> float:
    """Scale of the scores, which no key holds: the 27B's is by the model width; 0 for the usual one, by head width."""
    if keys.count("block_count") != LAYERS_OF_27B[keys.family]:
        return 0.0
    return 1.0 / math.sqrt(keys.count("embedding_length") // keys.count("attention.head_count"))


def _with_two_kinds_of_layers(keys: Keys, base: ModelConfig) -> ModelConfig:
    """Layers with a window have narrower heads and a RoPE of their own; the last layers reuse keys and values."""
    count, file = len(base.layers), keys.file
    sliding, window = sliding_layers(keys, count, period=6), keys.count("attention.sliding_window")
    width, global_width = keys.count("attention.key_length_swa"), base.layers[0].heads.width
    if keys.count("attention.value_length_swa", width) != width:
        raise keys.refuse("a model whose keys and values have different widths")
    local_rope = plain_rope(
        keys.real("rope.freq_base_swa", 10000.0), keys.rotated(width, "rope.dimension_count_swa"), neox_style=True
    )
    global_rope = read_rope(keys, global_width, neox_style=True)
    own_kv = count - int(keys.get("attention.shared_kv_layers", 0))  # layers with keys and values of their own

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        heads, rope = layer.heads, global_rope
        if sliding[index]:
            heads, rope = replace(heads, width=width, window=window), local_rope
        tensors, kv_shared_with = layer.tensors, None
        if index >= own_kv:
            kv_shared_with = own_kv - (2 if sliding[index] else 1)
            tensors = tuple(name for name in tensors if name not in KEYS_AND_VALUES)
        elif f"blk.{index}.attn_v.weight" not in file.tensors:
            tensors = tuple(name for name in tensors if name != "attn_v")
        optional = (*layer.optional, *KEYS_AND_VALUES)
        return replace(layer, heads=heads, rope=rope, tensors=tensors, optional=optional, kv_shared_with=kv_shared_with)

    return map_layers(base, change)
