"""Tiny random models of every family, with the metadata and tensors that its real files have (llama.cpp's converters).

families.make(tmp_path / "model.gguf", families.FAMILIES["gemma2"], qtype="Q4_0")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import tiny

WINDOW = 16
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Widths of a tiny model: D model, H query heads, K key heads, W head, F feed-forward, E experts, V vocabulary."""

    D: int
    V: int
    H: int = 4
    K: int = 2
    E: int = 4

    @property
    def W(self) -> int:
        return self.D // self.H

    @property
    def F(self) -> int:
        return 2 * self.D

    @property
    def P(self) -> int:
        """Width of per-layer embeddings: small, but a multiple of the quantisation's block size."""
        return 32 if self.D == 64 else self.D


Tensors = dict[str, Shape]


def norms(z: Sizes, *names: str) -> Tensors:
    return dict.fromkeys(names, (z.D,))


def attention(z: Sizes, *, bias: tuple[str, ...] = (), width: int = 0, kv: int = 0) -> Tensors:
    width, kv = width or z.W, kv or z.K
    rows = {"attn_q": z.H * width, "attn_k": kv * width, "attn_v": kv * width}
    out: Tensors = {f"{name}.weight": (count, z.D) for name, count in rows.items()}
    out |= {f"{name}.bias": ({**rows, "attn_output": z.D}[name],) for name in bias}
    return {**out, "attn_output.weight": (z.D, z.H * width)}


def gated(z: Sizes, width: int = 0, ending: str = "") -> Tensors:
    width = width or z.F
    return {
        f"ffn_gate{ending}.weight": (width, z.D),
        f"ffn_up{ending}.weight": (width, z.D),
        f"ffn_down{ending}.weight": (z.D, width),
    }


def experts(z: Sizes, width: int) -> Tensors:
    return {
        "ffn_gate_inp.weight": (z.E, z.D),
        "ffn_gate_exps.weight": (z.E, width, z.D),
        "ffn_up_exps.weight": (z.E, width, z.D),
        "ffn_down_exps.weight": (z.E, z.D, width),
    }


def head_norms(z: Sizes, width: int = 0) -> Tensors:
    return {"attn_q_norm.weight": (width or z.W,), "attn_k_norm.weight": (width or z.W,)}


BEFORE = ("attn_norm.weight", "ffn_norm.weight")
POST = ("post_attention_norm.weight", "post_ffw_norm.weight")
QKV = ("attn_q", "attn_k", "attn_v")
FLOAT = ("norm", "bias", "ffn_gate_inp", "conv.", "conv1d")  # never quantised, though some have two axes


@dataclass(frozen=True)
class Family:
    """`keys` are metadata without the architecture in front, `block` a layer's tensors, `top` those outside layers.

    `gelu`: llama.cpp computes the activation with a half-precision table. `tied` models have no output matrix. `noise`
    is the tolerance of log-probabilities for float32 rounding.
    """

    architecture: str
    block: Callable[[Sizes, int], Tensors]
    keys: Callable[[Sizes], Mapping[str, Any]] = lambda z: {}
    top: Callable[[Sizes], Tensors] = lambda z: {}
    layers: int = 2
    tied: bool = False
    gelu: bool = False
    noise: float = 1e-4
    epsilon: str = "attention.layer_norm_rms_epsilon"
    output_norm: str = "output_norm"
    sizes: Mapping[str, int] = field(default_factory=dict)


def make(
    path: Path,
    family: Family,
    *,
    qtype: str = "F32",
    types: Mapping[str, str] | None = None,
    seed: int = 0,
    context: int = 512,
) -> Path:
    """Write a tiny model of the family, its matrices in `qtype`, or in one of `types` by a part of the name."""
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[qtype]]
    z = Sizes(256 if block > 32 else 64, len(tiny.bpe_vocabulary()[0]), **family.sizes)
    writer = gguf.GGUFWriter(path, family.architecture)
    keys: dict[str, Any] = {
        "context_length": context,
        "embedding_length": z.D,
        "block_count": family.layers,
        "feed_forward_length": z.F,
        "attention.head_count": z.H,
        "attention.head_count_kv": z.K,
        family.epsilon: 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": z.W,
        "vocab_size": z.V,
        **family.keys(z),
    }
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in keys.items():
        (writer.add_array if isinstance(value, list) else add[type(value)])(f"{family.architecture}.{key}", value)
    weights = _weights(family, z, seed)
    return tiny.finish(writer, weights, vocab="bpe", qtype=qtype, types=dict.fromkeys(FLOAT, "F32") | dict(types or {}))


def _weights(family: Family, z: Sizes, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    shapes: Tensors = {"token_embd.weight": (z.V, z.D), f"{family.output_norm}.weight": (z.D,)}
    if not family.tied:
        shapes["output.weight"] = (z.V, z.D)
    shapes |= family.top(z)
    for index in range(family.layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in family.block(z, index).items()}
    for name, shape in shapes.items():
        value = draw.standard_normal(shape, dtype=np.float32)
        if "rope_f" in name:
            value = np.linspace(1, 8, shape[0], dtype=np.float32)
        elif "norm" in name and name.endswith(".weight"):
            value = 1 + np.float32(0.1) * value
        elif name.endswith("ssm_a"):
            value = -np.exp(np.float32(0.5) * value)
        elif name.endswith(("scale", "scale.weight")):
            value = 1 + np.float32(0.3) * value
        elif len(shape) > 1 and not name.endswith(".bias"):
            value *= np.float32((2.0 if name in ("token_embd.weight", "output.weight") else 1.0) / shape[-1] ** 0.5)
        elif "sinks" not in name:
            value *= np.float32(0.1)
        yield name, value


def _plain(z: Sizes, _: int) -> Tensors:
    return {**norms(z, *BEFORE), **attention(z), **gated(z)}


def _moe(z: Sizes, _: int) -> Tensors:
    return {**norms(z, *BEFORE), **attention(z), **experts(z, z.F)}


def _fused(z: Sizes) -> Tensors:
    """Queries, keys and values in one matrix, gate and up in another."""
    return {
        "attn_qkv.weight": ((z.H + 2 * z.K) * z.W, z.D),
        "attn_output.weight": (z.D, z.H * z.W),
        "ffn_up.weight": (2 * z.F, z.D),
        "ffn_down.weight": (z.D, z.F),
    }


def _gemma(z: Sizes, _: int) -> Tensors:
    return {**norms(z, *BEFORE), **attention(z, width=2 * z.W), **gated(z)}


def _wide_heads(z: Sizes) -> dict[str, Any]:
    """Gemma's heads are wider than the model's share of each."""
    return {"attention.key_length": 2 * z.W, "attention.value_length": 2 * z.W, "rope.dimension_count": 2 * z.W}


def _gemma4(z: Sizes, index: int, *, whole: bool) -> Tensors:
    """Whole layers have heads twice as wide as those with a window."""
    return {
        **norms(z, *BEFORE, *POST),
        **attention(z, width=(2 if whole else 1) * z.W, kv=1 if whole else z.K),
        **head_norms(z, (2 if whole else 1) * z.W),
        **gated(z),
        "layer_output_scale.weight": (1,),
    }


def _gemma4_keys(z: Sizes, whole: list[bool]) -> dict[str, Any]:
    return {
        "attention.key_length": 2 * z.W,
        "attention.value_length": 2 * z.W,
        "rope.dimension_count": 2 * z.W,
        "attention.key_length_swa": z.W,
        "attention.value_length_swa": z.W,
        "rope.dimension_count_swa": z.W,
        "attention.head_count_kv": [1 if each else z.K for each in whole],
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": [not each for each in whole],
        "final_logit_softcapping": 30.0,
        "embedding_length_per_layer_input": 0,
    }


def _gemma4_top(z: Sizes) -> Tensors:
    return {"rope_freqs.weight": (z.W,)}


OWN_INPUT = [False, True, False, True, False, True]
VALUES_ARE_KEYS = [False, True]


def _gemma4_small(z: Sizes, index: int) -> Tensors:
    """The last two layers have no keys of their own, and a feed-forward twice as wide."""
    block = _gemma4(z, index, whole=OWN_INPUT[index])
    if index >= 4:
        block = {name: shape for name, shape in block.items() if not name.startswith(("attn_k", "attn_v"))}
        block |= gated(z, 2 * z.F)
    return {**block, "inp_gate.weight": (z.P, z.D), "proj.weight": (z.D, z.P), **norms(z, "post_norm.weight")}


def _gemma4_large(z: Sizes, index: int) -> Tensors:
    block = _gemma4(z, index, whole=VALUES_ARE_KEYS[index])
    return {name: shape for name, shape in block.items() if name != "attn_v.weight" or not VALUES_ARE_KEYS[index]}


def _gemma4_moe(z: Sizes, index: int) -> Tensors:
    mixed = experts(z, z.D)
    del mixed["ffn_gate_exps.weight"], mixed["ffn_up_exps.weight"]
    return {
        **_gemma4_large(z, index), **mixed, "ffn_gate_up_exps.weight": (z.E, 2 * z.D, z.D),
        "ffn_down_exps.scale": (z.E,), "ffn_gate_inp.scale": (z.D,),
        **norms(z, "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight"),
    }  # fmt: skip


def _lfm2(z: Sizes, index: int) -> Tensors:
    """Convolutions, and attention in the third layer."""
    if index == 2:
        return {**_plain(z, index), **head_norms(z)}
    mixer = {"in_proj.weight": (3 * z.D, z.D), "conv.weight": (z.D, 3), "out_proj.weight": (z.D, z.D)}
    return {**norms(z, *BEFORE), **gated(z), **{f"shortconv.{name}": shape for name, shape in mixer.items()}}


def _hybrid(z: Sizes, index: int, *, joined: bool) -> Tensors:
    """Linear attention with two key and four value heads; gated attention in every fourth layer."""
    ends = norms(z, "attn_norm.weight", "post_attention_norm.weight")
    if index % 4 == 3:
        return {**ends, **attention(z), "attn_q.weight": (2 * z.D, z.D), **head_norms(z)}
    values, keys = 4, 2
    rates = {"ssm_ba": 2 * values} if joined else {"ssm_beta": values, "ssm_alpha": values}
    return {
        **ends, "attn_qkv.weight": ((2 * keys + values) * z.W, z.D), "attn_gate.weight": (values * z.W, z.D),
        "ssm_conv1d.weight": ((2 * keys + values) * z.W, 4), "ssm_dt.bias": (values,), "ssm_a": (values,),
        "ssm_norm.weight": (z.W,), "ssm_out.weight": (z.D, values * z.W),
        **{f"{name}.weight": (rows, z.D) for name, rows in rates.items()},
    }  # fmt: skip


def _qwen35(z: Sizes, index: int) -> Tensors:
    """The sixth block guesses a token ahead: it is in the file and not in the prompt's way."""
    if index < 5:
        return {**_hybrid(z, index, joined=False), **gated(z)}
    guess = {"nextn.eh_proj.weight": (z.D, 2 * z.D), **norms(z, "nextn.enorm.weight", "nextn.hnorm.weight")}
    return {**_hybrid(z, 3, joined=False), **gated(z), **guess}


def _hybrid_keys(z: Sizes) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": 4, "ssm.inner_size": 4 * z.W, "ssm.state_size": z.W, "ssm.time_step_rank": 4,
        "ssm.group_count": 2, "full_attention_interval": 4, "rope.dimension_count": z.W // 2,
        "attention.key_length": z.W, "attention.value_length": z.W,
    }  # fmt: skip


def _sections(z: Sizes) -> dict[str, Any]:
    pairs = z.W // 4
    third = pairs // 3
    return {"rope.dimension_sections": [pairs - 2 * third, third, third, 0]}


def _hybrid_experts(z: Sizes) -> Tensors:
    return {**experts(z, z.D), **gated(z, z.D, "_shexp"), "ffn_gate_inp_shexp.weight": (z.D,)}


USED = {"expert_count": 4, "expert_used_count": 2}
LINEAR = 3e-4  # llama.cpp takes linear attention token by token, we in chunks
LAYER_NORM = "attention.layer_norm_epsilon"

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _plain),
    "mistral3": Family(
        "mistral3", _plain,
        lambda z: {
            "attention.temperature_scale": 0.1, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 128, "rope.scaling.yarn_log_multiplier": 1.0,
        },
    ),
    "qwen2": Family("qwen2", lambda z, _: {**norms(z, *BEFORE), **attention(z, bias=QKV), **gated(z)}),
    "qwen3": Family("qwen3", lambda z, i: {**_plain(z, i), **head_norms(z)}, tied=True),
    "gemma": Family("gemma", _gemma, _wide_heads, tied=True, gelu=True),
    "gemma2": Family(
        "gemma2",
        lambda z, i: {**_gemma(z, i), **norms(z, *POST)},
        lambda z: {
            **_wide_heads(z), "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 30.0,
        },
        tied=True,
        gelu=True,
    ),
    "gemma3": Family(
        "gemma3",
        lambda z, i: {**_gemma(z, i), **norms(z, *POST), **head_norms(z, 2 * z.W)},
        lambda z: {**_wide_heads(z), "attention.sliding_window": WINDOW, "rope.freq_base": 1e6},
        layers=7,
        tied=True,
        gelu=True,
    ),
    "gemma4 small": Family(
        "gemma4", _gemma4_small,
        lambda z: {
            **_gemma4_keys(z, OWN_INPUT), "embedding_length_per_layer_input": z.P, "attention.shared_kv_layers": 2,
            "feed_forward_length": [z.F] * 4 + [2 * z.F] * 2,
        },
        top=lambda z: {
            **_gemma4_top(z), "per_layer_token_embd.weight": (z.V, 6 * z.P),
            "per_layer_model_proj.weight": (6 * z.P, z.D), "per_layer_proj_norm.weight": (z.P,),
        },
        layers=6, tied=True, gelu=True,
    ),
    "gemma4 large": Family(
        "gemma4", _gemma4_large, lambda z: _gemma4_keys(z, VALUES_ARE_KEYS), top=_gemma4_top, tied=True, gelu=True,
    ),
    "gemma4 moe": Family(
        "gemma4", _gemma4_moe,
        lambda z: {**_gemma4_keys(z, VALUES_ARE_KEYS), **USED, "expert_feed_forward_length": z.D},
        top=_gemma4_top, tied=True, gelu=True,
    ),
    "phi3": Family(
        "phi3",
        lambda z, _: {**norms(z, *BEFORE), **_fused(z)},
        lambda z: {
            "rope.dimension_count": z.W * 3 // 4, "attention.sliding_window": WINDOW,
            "rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.19,
        },
        top=lambda z: {"rope_factors_long.weight": (z.W * 3 // 8,), "rope_factors_short.weight": (z.W * 3 // 8,)},
    ),
    "granite": Family(
        "granite", _plain,
        lambda z: {"embedding_scale": 3.0, "residual_scale": 0.7, "attention.scale": 0.2, "logit_scale": 1.5},
        tied=True,
    ),
    "olmo2": Family(
        "olmo2",
        lambda z, _: {
            **attention(z), **gated(z), **norms(z, *POST),
            "attn_q_norm.weight": (z.H * z.W,), "attn_k_norm.weight": (z.K * z.W,),
        },
    ),
    "olmo3": Family(
        "olmo2",
        lambda z, i: FAMILIES["olmo2"].block(z, i),
        lambda z: {
            "attention.sliding_window": WINDOW, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.2,
        },
        layers=4,
    ),
    "smollm3": Family("smollm3", _plain, layers=4, tied=True),
    "stablelm": Family(
        "stablelm",
        lambda z, i: {
            **norms(z, *BEFORE, "attn_norm.bias", "ffn_norm.bias"), **attention(z, bias=QKV), **gated(z),
        },
        lambda z: {"rope.dimension_count": z.W // 4, "use_parallel_residual": False},
        top=lambda z: {"output_norm.bias": (z.D,)},
        epsilon=LAYER_NORM,
    ),
    "stablelm 12b": Family(
        "stablelm",
        lambda z, i: {
            **norms(z, "attn_norm.weight", "attn_norm.bias"), **attention(z), **gated(z),
            "attn_q_norm.weight": (z.H, z.W), "attn_k_norm.weight": (z.K, z.W),
        },
        lambda z: {"rope.dimension_count": z.W // 4, "use_parallel_residual": True},
        top=lambda z: {"output_norm.bias": (z.D,)},
        epsilon=LAYER_NORM,
    ),
    "starcoder2": Family(
        "starcoder2",
        lambda z, _: {
            **norms(z, *BEFORE, "attn_norm.bias", "ffn_norm.bias"), **attention(z, bias=(*QKV, "attn_output")),
            "ffn_up.weight": (z.F, z.D), "ffn_up.bias": (z.F,), "ffn_down.weight": (z.D, z.F), "ffn_down.bias": (z.D,),
        },
        top=lambda z: {"output_norm.bias": (z.D,)},
        gelu=True,
        epsilon=LAYER_NORM,
    ),
    "command-r": Family(
        "command-r",
        lambda z, _: {**norms(z, "attn_norm.weight"), **attention(z), **gated(z)},
        lambda z: {"logit_scale": 0.75},
        tied=True,
        epsilon=LAYER_NORM,
    ),
    "cohere2": Family(
        "cohere2",
        lambda z, i: FAMILIES["command-r"].block(z, i),
        lambda z: {"logit_scale": 0.75, "attention.sliding_window": WINDOW},
        layers=4,
        tied=True,
        epsilon=LAYER_NORM,
    ),
    "glm4": Family(
        "glm4",
        lambda z, _: {
            **norms(z, *BEFORE, *POST), **attention(z, bias=QKV),
            "ffn_up.weight": (2 * z.F, z.D), "ffn_down.weight": (z.D, z.F),
        },
        lambda z: {"rope.dimension_count": z.W // 2},
    ),
    "mixtral": Family("llama", _moe, lambda z: USED),
    "qwen3moe": Family(
        "qwen3moe",
        lambda z, _: {**norms(z, *BEFORE), **attention(z), **head_norms(z), **experts(z, z.D)},
        lambda z: {**USED, "expert_feed_forward_length": z.D},
    ),
    "granitemoe": Family(
        "granitemoe",
        lambda z, i: {**_moe(z, i), **gated(z, z.D, "_shexp")},
        lambda z: {
            **USED, "expert_shared_feed_forward_length": z.D,
            "embedding_scale": 3.0, "residual_scale": 0.7, "attention.scale": 0.2, "logit_scale": 1.5,
        },
        tied=True,
    ),
    "gpt-oss": Family(
        "gpt-oss",
        lambda z, _: {
            **norms(z, "attn_norm.weight", "post_attention_norm.weight"),
            **attention(z, bias=(*QKV, "attn_output")), **experts(z, z.D), "attn_sinks.weight": (z.H,),
            "ffn_gate_inp.bias": (z.E,), "ffn_gate_exps.bias": (z.E, z.D),
            "ffn_up_exps.bias": (z.E, z.D), "ffn_down_exps.bias": (z.E, z.D),
        },
        lambda z: {
            **USED, "expert_feed_forward_length": z.D, "attention.sliding_window": WINDOW,
            "attention.key_length": z.W, "attention.value_length": z.W, "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 64,
        },
    ),
    "lfm2": Family(
        "lfm2", _lfm2,
        lambda z: {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 0, z.K, 0], "rope.freq_base": 1e6},
        layers=4, tied=True, output_norm="token_embd_norm",
    ),
    "qwen35": Family(
        "qwen35", _qwen35, lambda z: {**_hybrid_keys(z), **_sections(z), "nextn_predict_layers": 1},
        layers=6, tied=True, noise=LINEAR,
    ),
    "qwen35moe": Family(
        "qwen35moe",
        lambda z, i: {**_hybrid(z, i, joined=False), **_hybrid_experts(z)},
        lambda z: {
            **_hybrid_keys(z), **_sections(z), **USED,
            "expert_feed_forward_length": z.D, "expert_shared_feed_forward_length": z.D,
        },
        noise=LINEAR, layers=4,
    ),
    "qwen3next": Family(
        "qwen3next",
        lambda z, i: {**_hybrid(z, i, joined=True), **_hybrid_experts(z)},
        lambda z: {
            **_hybrid_keys(z), **USED, "expert_feed_forward_length": z.D, "expert_shared_feed_forward_length": z.D,
        },
        noise=LINEAR, layers=4,
    ),
}  # fmt: skip
