"""Read the hyperparameters that families share from GGUF metadata.

llama.cpp reads those of all families in src/llama-model.cpp (load_hparams), those of one in src/models/FAMILY.cpp.
Paths here and in `families` are those of llama.cpp as of xllamacpp 2026.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile
from .config import Experts, Heads, LayerConfig, ModelConfig, Rope

ATTENTION = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
DENSE = (*ATTENTION, *FEED_FORWARD)
EXPERTS = ("ffn_norm", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SHARED_EXPERT = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
POST_NORMS = ("post_attention_norm", "post_ffw_norm")
ATTENTION_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias")
# GGML_ASSERT(n_embd_head == n_rot) in src/models/FAMILY.cpp
WHOLE_HEADS = ("granite", "olmo2", "qwen2", "qwen3", "qwen3moe", "smollm3", "starcoder2")
WIDEST = 1 << 16  # no head is this wide; stops a damaged file from using all memory
FEED_FORWARD_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")


class Keys:
    """Metadata of one file by key, without the architecture prefix."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.family = file, str(file.metadata("general.architecture", ""))

    def get(self, name: str, default: Any = None) -> Any:
        return self.file.metadata(f"{self.family}.{name}", default)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer. Raises ModelFileError if it is missing without a default or not positive."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or value <= 0:
            raise self.damaged(f"the metadata key {self.family}.{name} is missing or not a positive number")
        return int(value)

    def real(self, name: str, default: float) -> float:
        """A finite number. Raises ModelFileError for anything else."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.damaged(f"the metadata key {self.family}.{name} is not a finite number")
        return float(value)

    def blocks(self) -> int:
        """Number of blocks. Raises ModelFileError if there are more than tensors."""
        count, tensors = self.count("block_count"), len(self.file.tensors)
        if count > tensors:
            raise self.damaged(f"metadata declare {count} blocks, but the file has only {tensors} tensors")
        return count

    def check_context(self) -> None:
        """Raise ModelFileError if there is only one position, on which llama.cpp would abort."""
        if (count := self.count("context_length")) < 2:
            raise ModelFileError(
                f"{self.file.path}: {self.family}.context_length is {count}, too few for any text; re-export the model"
            )

    def rotated(self, head_width: int, name: str = "rope.dimension_count") -> int:
        """Number of rotated elements of a head. Raises ModelFileError for a number that llama.cpp would abort on."""
        count = self.count(name, head_width)
        if count < head_width and self.family in WHOLE_HEADS:
            raise ModelFileError(
                f"{self.file.path}: {self.family}.{name} is {count}, but llama.cpp rotates whole heads ({head_width} "
                f"elements) of a {self.family} model; re-export the model"
            )
        if count > head_width:
            raise self.damaged(f"{self.family}.{name} is {count}, but a head has only {head_width} elements")
        return count

    def each_layer(self, name: str, layers: int, default: int | None = None) -> tuple[int, ...]:
        """One number per layer, from a scalar or a list. Raises ModelFileError for a list that is too short."""
        value = self.get(name, default)
        if not isinstance(value, Sequence):
            return (int(value),) * layers if value == 0 else (self.count(name, default),) * layers
        if len(value) < layers:
            raise self.damaged(f"{self.family}.{name} has {len(value)} values for {layers} layers")
        return tuple(int(each) for each in value[:layers])

    def damaged(self, fault: str) -> ModelFileError:
        return ModelFileError(f"{self.file.path}: {fault}; re-export the model")

    def refuse(self, what: str) -> FineTuningNotSupportedError:
        return FineTuningNotSupportedError(f"{self.file.path}: {what} cannot be tuned yet; use the model set")


def decoder(
    file: GGUFFile,
    *,
    neox_style: bool = False,
    scale: float = 0.0,
    tensors: tuple[str, ...] = DENSE,
    optional: tuple[str, ...] = (),
    layernorm: bool = False,
) -> ModelConfig:
    """Configuration of a plain decoder; families replace what differs.

    `neox_style` is the kind of RoPE, `scale` multiplies the attention scores (0: 1 / √head width); every layer has the
    `tensors` and may have the `optional` ones. With `layernorm` the norms are LayerNorm.
    Raises ModelFileError for missing keys, FineTuningNotSupportedError for a variant that the decoder cannot run.
    """
    keys = Keys(file)
    width, count = keys.count("embedding_length"), keys.blocks()
    heads = keys.each_layer("attention.head_count", count)
    kv_heads = keys.each_layer("attention.head_count_kv", count, heads[0])
    head_width = keys.count("attention.key_length", width // max(heads))
    if keys.count("attention.value_length", head_width) != head_width:
        raise keys.refuse("a model whose keys and values have different widths")
    scale = scale or 1.0 / math.sqrt(head_width)
    rope = read_rope(keys, head_width, neox_style=neox_style)
    feed_forward = keys.each_layer("feed_forward_length", count)
    layers = tuple(
        LayerConfig(Heads(heads[i], kv_heads[i], head_width, scale), rope, feed_forward[i], tensors, optional)
        for i in range(count)
    )
    keys.check_context()
    return ModelConfig(
        family=keys.family,
        layers=layers,
        width=width,
        vocabulary=file.info("token_embd.weight").rows,
        epsilon=keys.real("attention.layer_norm_epsilon" if layernorm else "attention.layer_norm_rms_epsilon", 1e-5),
        layernorm=layernorm,
    )


def mixture(file: GGUFFile, *, width: int | None = None) -> Experts:
    """Number of experts, experts per token and inner width; `width` if no key holds it.

    Raises ModelFileError if a count is missing or more experts are used than exist.
    """
    keys = Keys(file)
    experts = Experts(
        keys.count("expert_count"), keys.count("expert_used_count"), keys.count("expert_feed_forward_length", width)
    )
    if experts.used > experts.count:
        raise keys.damaged(f"{experts.used} experts per token, but only {experts.count} experts")
    return experts


def map_layers(config: ModelConfig, change: Callable[[int, LayerConfig], LayerConfig]) -> ModelConfig:
    return replace(config, layers=tuple(change(index, layer) for index, layer in enumerate(config.layers)))


def sliding_layers(keys: Keys, layers: int, period: int) -> tuple[bool, ...]:
    """True for each layer with a sliding window: all but the last of every `period` layers.

    The metadata may hold another period, or one value per layer.
    """
    value = keys.get("attention.sliding_window_pattern", period)
    if isinstance(value, Sequence):
        return tuple(map(bool, keys.each_layer("attention.sliding_window_pattern", layers)))
    return tuple(int(value) == 0 or index % int(value) != int(value) - 1 for index in range(layers))


def with_window(config: ModelConfig, sliding: Sequence[bool], window: int, rope: Rope | None = None) -> ModelConfig:
    """Set the window, and `rope` if given, of the layers that are `sliding`."""

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        if not sliding[index]:
            return layer
        return replace(layer, heads=replace(layer.heads, window=window), rope=rope or layer.rope)

    return map_layers(config, change)


# --- rotary positions ---


def plain_rope(base: float, rotated: int, *, neox_style: bool) -> Rope:
    """RoPE without scaling of `rotated` elements per head. Raises ValueError for an impossible base or width."""
    if base <= 0 or rotated > WIDEST:
        raise ValueError(f"RoPE of {rotated} elements with base {base}")
    inv_freq_F = base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    return Rope(tuple(inv_freq_F.tolist()), 1.0, neox_style)


def read_rope(keys: Keys, head_width: int, *, neox_style: bool) -> Rope:
    """RoPE as the file describes it, with its scaling and its factor for each pair.

    llama.cpp: ggml/src/ggml-cpu/ops.cpp (ggml_rope_cache_init, rope_yarn) and src/llama-context.cpp.
    Raises FineTuningNotSupportedError for an unknown scaling, ModelFileError for a wrong number of factors.
    """
    file, rotated = keys.file, keys.rotated(head_width)
    base = keys.real("rope.freq_base", 10000.0)
    inv_freq_F = np.array(plain_rope(base, rotated, neox_style=neox_style).inv_freq_F)
    # Llama 3.1 has one factor per pair; Phi 3 has short ones for its original context and long ones beyond it
    for name in ("rope_freqs.weight", "rope_factors_short.weight"):
        if name in file.tensors:
            factors_F = file.tensor(name).reshape(-1).astype(np.float64)
            if len(factors_F) != len(inv_freq_F):
                raise keys.damaged(f"{name} has {len(factors_F)} factors for {len(inv_freq_F)} rotated pairs")
            inv_freq_F = inv_freq_F / factors_F
    kind = str(keys.get("rope.scaling.type", "linear"))
    attention_factor = keys.real("rope.scaling.attn_factor", 1.0)
    factor = float(keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 1.0)) or 1.0)
    if kind == "linear":
        inv_freq_F = inv_freq_F / factor
    elif kind == "yarn":
        unscaled_F = _unscaled_share(keys, rotated, base)
        inv_freq_F = inv_freq_F / factor * (1.0 - unscaled_F) + inv_freq_F * unscaled_F
        untrained = keys.real("rope.scaling.yarn_log_multiplier", 0.0)  # share that the model was trained without
        attention_factor *= (1.0 + 0.1 * math.log(factor)) / (1.0 + 0.1 * untrained * math.log(factor))
    elif kind not in ("none", "longrope"):
        raise keys.refuse(f"the rope scaling {kind!r}")
    return Rope(tuple(inv_freq_F.tolist()), attention_factor, neox_style)


def _unscaled_share(keys: Keys, rotated: int, base: float) -> np.ndarray:
    """YaRN (Peng et al., arXiv 2309.00071) as in llama.cpp: share of each pair's frequency that is not scaled, (F,).

    Slow pairs are scaled, fast ones are not.
    """
    original = keys.count("rope.scaling.original_context_length", keys.count("context_length"))
    beta_fast = keys.real("rope.scaling.yarn_beta_fast", 32.0)
    beta_slow = keys.real("rope.scaling.yarn_beta_slow", 1.0)

    def pair_with(rotations: float) -> float:
        """Index of the pair with so many full rotations in the original context."""
        return rotated * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(0.0, math.floor(pair_with(beta_fast)))
    high = min(rotated - 1.0, math.ceil(pair_with(beta_slow)))
    pairs_F = np.arange(rotated // 2, dtype=np.float64)
    return 1.0 - np.clip((pairs_F - low) / max(0.001, high - low), 0.0, 1.0)
