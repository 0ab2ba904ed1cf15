"""Qwen 3 Next: linear attention in three of four layers, gated attention in the fourth, a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...gguf.read import GGUFFile
from ..config import GatedDeltaNetConfig, LayerConfig, ModelConfig
from ..hparams import ATTENTION, EXPERTS, HEAD_NORMS, SHARED_EXPERT, Keys, decoder, every, mixture

NORM = "post_attention_norm"  # what stands before the feed-forward, though it is called so
LINEAR = ("attn_norm", "attn_qkv", "attn_gate", "ssm_conv1d", "ssm_dt.bias", "ssm_a", "ssm_norm", "ssm_out")
MIXED = (*EXPERTS[1:], "ffn_gate_inp_shexp", *SHARED_EXPERT)


def spec(file: GGUFFile) -> ModelConfig:
    """llama.cpp: src/models/qwen3next.cpp."""
    return hybrid(file, feed_forward=MIXED, experts=mixture(file), neighbours=True, joined=True)


def hybrid(
    file: GGUFFile, *, feed_forward: tuple[str, ...], neighbours: bool, joined: bool, **settings: Any
) -> ModelConfig:
    """A decoder with linear attention, but for every fourth layer or those that the file names.

    llama.cpp: src/models/delta-net-base.cpp. Blocks that guess tokens ahead are left as they are.
    """
    keys, behind = Keys(file), (NORM, *feed_forward)
    tensors = (*ATTENTION, *HEAD_NORMS, *behind)
    base = decoder(file, halves=True, tensors=tensors, feed_forward_norm=NORM, **settings)
    spare, whole_each = int(keys.get("nextn_predict_layers", 0)), keys.count("full_attention_interval", 4)
    if not 0 <= spare < len(base.layers):
        raise ValueError(f"{spare} of {len(base.layers)} blocks guess ahead")
    linear: Sequence[int] = [(index + 1) % whole_each for index in range(len(base.layers))]
    if keys.get("attention.recurrent_layers"):
        linear = keys.each_layer("attention.recurrent_layers", len(base.layers))
    taps, delta = keys.count("ssm.conv_kernel"), _delta(keys, neighbours=neighbours, joined=joined)
    rates = ("ssm_ba",) if joined else ("ssm_beta", "ssm_alpha")

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        if not linear[index]:
            return replace(layer, gated=True)
        return replace(layer, tensors=(*LINEAR, *rates, *behind), taps=taps, delta=delta, rope=None)

    return every(replace(base, layers=base.layers[: len(base.layers) - spare], spare=spare), change)


def _delta(keys: Keys, *, neighbours: bool, joined: bool) -> GatedDeltaNetConfig:
    delta = GatedDeltaNetConfig(
        keys.count("ssm.group_count"),
        keys.count("ssm.time_step_rank"),
        keys.count("ssm.state_size"),
        neighbours,
        joined,
    )
    if keys.count("ssm.inner_size") != delta.values * delta.width or delta.values % delta.keys:
        raise keys.refuse("linear attention whose keys and values have different widths")
    return delta
