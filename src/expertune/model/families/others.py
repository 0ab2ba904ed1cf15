"""Architectures with one model family each; the two of Cohere."""

from __future__ import annotations

from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import LayerConfig, ModelConfig
from ..hparams import (
    ATTENTION,
    ATTENTION_BIASES,
    EXPERTS,
    FEED_FORWARD,
    HEAD_NORMS,
    POST_NORMS,
    Keys,
    decoder,
    map_layers,
    mixture,
    plain_rope,
    sliding_layers,
    with_window,
)

CONVOLUTION = ("attn_norm", "shortconv.in_proj", "shortconv.conv", "shortconv.out_proj")
QKV_BIASES = ATTENTION_BIASES[:3]


def command_r(file: GGUFFile) -> ModelConfig:
    """Command R; the larger model has QK norms. llama.cpp: src/models/command-r.cpp."""
    return _cohere(file, optional=(*HEAD_NORMS, *ATTENTION_BIASES))


def cohere2(file: GGUFFile) -> ModelConfig:
    """Command R7B and Command A: sliding windows, and no RoPE in the layers that have no window.

    llama.cpp: src/models/cohere2.cpp.
    """
    keys, base = Keys(file), _cohere(file)
    sliding = sliding_layers(keys, len(base.layers), period=4)
    base = with_window(base, sliding, keys.count("attention.sliding_window"))
    return map_layers(base, lambda index, layer: layer if sliding[index] else replace(layer, rope=None))


def _cohere(file: GGUFFile, *, optional: tuple[str, ...] = ()) -> ModelConfig:
    """LayerNorm without bias, parallel residual, scaled logits."""
    base = decoder(file, tensors=(*ATTENTION, "ffn_gate", "ffn_up", "ffn_down"), optional=optional, layernorm=True)
    return replace(base, parallel_residual=True, logit_scale=Keys(file).real("logit_scale", 1.0) or 1.0)


def glm4(file: GGUFFile) -> ModelConfig:
    """GLM 4: gate and up in one matrix, pre and post norms, RoPE on half of each head.

    llama.cpp: src/models/glm4.cpp.
    """
    keys = Keys(file)
    if keys.get("rope.dimension_sections"):
        raise keys.refuse("a GLM 4 with vision")
    return decoder(file, tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down", *POST_NORMS), optional=QKV_BIASES)


def gpt_oss(file: GGUFFile) -> ModelConfig:
    """gpt-oss: experts with biases and a clamped gate, attention sinks, a window in every second layer.

    llama.cpp: src/models/openai-moe.cpp. The GGUF calls the norm before the experts post_attention_norm.
    """
    keys, norm, experts = Keys(file), "post_attention_norm", EXPERTS[1:]
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION, *ATTENTION_BIASES, "attn_sinks", norm, *experts),
        optional=tuple(f"{name}.bias" for name in experts),
    )
    base = replace(base, activation="swiglu_oai", experts=mixture(file), feed_forward_norm=norm)
    return with_window(base, sliding_layers(keys, len(base.layers), period=2), keys.count("attention.sliding_window"))


def lfm2(file: GGUFFile) -> ModelConfig:
    """LFM 2: layers without key heads are short convolutions, the others attention with QK norms.

    llama.cpp: src/models/lfm2.cpp. token_embd_norm is the output norm.
    """
    conv_kernel = Keys(file).count("shortconv.l_cache")
    base = decoder(file, neox_style=True, tensors=(*ATTENTION, *HEAD_NORMS, *FEED_FORWARD))

    def change(_: int, layer: LayerConfig) -> LayerConfig:
        if layer.heads.keys:
            return layer
        return replace(layer, tensors=(*CONVOLUTION, *FEED_FORWARD), conv_kernel=conv_kernel, rope=None)

    return map_layers(replace(base, output_norm="token_embd_norm"), change)


def olmo2(file: GGUFFile) -> ModelConfig:
    """OLMo 2 and 3: post norms only, QK norms over all heads; OLMo 3 has sliding windows.

    llama.cpp: src/models/olmo2.cpp. RoPE of layers with a window is not scaled.
    """
    keys = Keys(file)
    tensors = (*ATTENTION[1:], *FEED_FORWARD[1:], *HEAD_NORMS, *POST_NORMS)
    base = decoder(file, neox_style=True, tensors=tensors)
    window = int(keys.get("attention.sliding_window", 0))
    if not window:
        return base
    local = plain_rope(keys.real("rope.freq_base", 10000.0), base.layers[0].heads.width, neox_style=True)
    return with_window(base, sliding_layers(keys, len(base.layers), period=4), window, local)


def phi3(file: GGUFFile) -> ModelConfig:
    """Phi 3 and 4: queries, keys and values in one matrix, gate and up in another.

    llama.cpp: src/models/phi3.cpp, which ignores the window that some files declare.
    """
    return decoder(file, neox_style=True, tensors=(*ATTENTION, "ffn_norm", "ffn_up", "ffn_down"))


def stablelm(file: GGUFFile) -> ModelConfig:
    """StableLM 2: LayerNorm, RoPE on a part of each head; the 12B has a parallel residual.

    llama.cpp: src/models/stablelm.cpp.
    """
    parallel_residual = "blk.0.ffn_norm.weight" not in file.tensors
    norm = () if parallel_residual else ("ffn_norm", "ffn_norm.bias")
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION, "attn_norm.bias", *norm, *FEED_FORWARD[1:]),
        optional=(*HEAD_NORMS, *QKV_BIASES),
        layernorm=True,
    )
    return replace(base, parallel_residual=parallel_residual)


def starcoder2(file: GGUFFile) -> ModelConfig:
    """StarCoder 2: LayerNorm, biases everywhere, no gate in the feed-forward. llama.cpp: src/models/starcoder2.cpp."""
    feed_forward = ("ffn_norm", "ffn_norm.bias", "ffn_up", "ffn_up.bias", "ffn_down", "ffn_down.bias")
    base = decoder(
        file,
        neox_style=True,
        tensors=(*ATTENTION, "attn_norm.bias", *feed_forward),
        optional=ATTENTION_BIASES,
        layernorm=True,
    )
    return replace(base, activation="gelu", gated=False)
