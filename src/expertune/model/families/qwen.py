"""Alibaba's Qwen models. From 3 Next and 3.5 on three of four layers have linear attention, the fourth a gated one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...gguf.read import GGUFFile
from ..config import GatedDeltaNetConfig, KeyRepeat, LayerConfig, ModelConfig
from ..hparams import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE,
    EXPERTS,
    FEED_FORWARD,
    HEAD_NORMS,
    SHARED_EXPERT,
    Keys,
    decoder,
    map_layers,
    mixture,
)

NORM = "post_attention_norm"  # the GGUF's name of the norm before the feed-forward
LINEAR = ("attn_norm", "attn_qkv", "attn_gate", "ssm_conv1d", "ssm_dt.bias", "ssm_a", "ssm_norm", "ssm_out")
MIXED = (*EXPERTS[1:], "ffn_gate_inp_shexp", *SHARED_EXPERT)


def qwen2(file: GGUFFile) -> ModelConfig:
    """Qwen 2 and 2.5, DeepSeek's distillations into it. llama.cpp: src/models/qwen2.cpp."""
    return decoder(file, neox_style=True, optional=ATTENTION_BIASES)


def qwen3(file: GGUFFile) -> ModelConfig:
    """Qwen 3, dense: QK norms per head. llama.cpp: src/models/qwen3.cpp."""
    return decoder(file, neox_style=True, tensors=(*DENSE, *HEAD_NORMS))


def qwen3moe(file: GGUFFile) -> ModelConfig:
    """Qwen 3, mixture of experts. llama.cpp: src/models/qwen3moe.cpp."""
    keys = Keys(file)
    experts = mixture(file, width=keys.count("feed_forward_length") // keys.count("expert_used_count"))
    return replace(decoder(file, neox_style=True, tensors=(*ATTENTION, *HEAD_NORMS, *EXPERTS)), experts=experts)


def qwen3next(file: GGUFFile) -> ModelConfig:
    """Qwen 3 Next, mixture of experts. llama.cpp: src/models/qwen3next.cpp."""
    base = _hybrid(file, feed_forward=MIXED, key_repeat="interleave", fused_beta_alpha=True)
    return replace(base, experts=mixture(file))


def qwen35(file: GGUFFile) -> ModelConfig:
    """Qwen 3.5 and 3.6, dense. llama.cpp: src/models/qwen35.cpp."""
    _check_rope_sections(file)
    return _hybrid(file, feed_forward=FEED_FORWARD[1:], key_repeat="tile", fused_beta_alpha=False)


def qwen35moe(file: GGUFFile) -> ModelConfig:
    """Qwen 3.5 and 3.6, mixture of experts. llama.cpp: src/models/qwen35moe.cpp."""
    _check_rope_sections(file)
    base = _hybrid(file, feed_forward=MIXED, key_repeat="tile", fused_beta_alpha=False)
    return replace(base, experts=mixture(file))


def _check_rope_sections(file: GGUFFile) -> None:
    """Refuse RoPE sections that leave out pairs, which text would not rotate; all other sections are equal for text."""
    keys = Keys(file)
    sections: Sequence[int] = keys.get("rope.dimension_sections", ())
    if sections and 2 * sum(sections[:3]) < keys.count("rope.dimension_count", keys.count("attention.key_length")):
        raise keys.refuse("RoPE sections that leave out pairs")


def _hybrid(
    file: GGUFFile, *, feed_forward: tuple[str, ...], key_repeat: KeyRepeat, fused_beta_alpha: bool
) -> ModelConfig:
    """Decoder with linear attention, except in every fourth layer or the layers that the file names.

    llama.cpp: src/models/delta-net-base.cpp. Blocks for multi-token prediction are left unchanged.
    """
    keys, after_mixer = Keys(file), (NORM, *feed_forward)
    base = decoder(file, neox_style=True, tensors=(*ATTENTION, *HEAD_NORMS, *after_mixer))
    mtp_layers, interval = int(keys.get("nextn_predict_layers", 0)), keys.count("full_attention_interval", 4)
    if not 0 <= mtp_layers < len(base.layers):
        raise ValueError(f"{mtp_layers} multi-token prediction blocks of {len(base.layers)}")
    linear: Sequence[int] = [(index + 1) % interval for index in range(len(base.layers))]
    if keys.get("attention.recurrent_layers"):
        linear = keys.each_layer("attention.recurrent_layers", len(base.layers))
    conv_kernel = keys.count("ssm.conv_kernel")
    delta_net = _gated_delta_net(keys, key_repeat=key_repeat, fused_beta_alpha=fused_beta_alpha)
    beta_alpha = ("ssm_ba",) if fused_beta_alpha else ("ssm_beta", "ssm_alpha")
    tensors = (*LINEAR, *beta_alpha, *after_mixer)

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        if not linear[index]:
            return replace(layer, output_gate=True)
        return replace(layer, tensors=tensors, conv_kernel=conv_kernel, gated_delta_net=delta_net, rope=None)

    layers = base.layers[: len(base.layers) - mtp_layers]
    return map_layers(replace(base, layers=layers, mtp_layers=mtp_layers, feed_forward_norm=NORM), change)


def _gated_delta_net(keys: Keys, *, key_repeat: KeyRepeat, fused_beta_alpha: bool) -> GatedDeltaNetConfig:
    found = GatedDeltaNetConfig(
        keys=keys.count("ssm.group_count"),
        values=keys.count("ssm.time_step_rank"),
        width=keys.count("ssm.state_size"),
        key_repeat=key_repeat,
        fused_beta_alpha=fused_beta_alpha,
    )
    if keys.count("ssm.inner_size") != found.values * found.width or found.values % found.keys:
        raise keys.refuse("linear attention whose keys and values have different widths")
    return found
