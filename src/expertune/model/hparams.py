"""GGUF metadata → the parts of a Spec that families share.

What llama.cpp reads for all families stands in src/llama-model.cpp (load_hparams), what it reads for one in
src/models/FAMILY.cpp.
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
WIDEST = 1 << 16  # no head is this wide: a damaged file is not to take all memory
LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"  # of the gain that the model was trained without
FEED_FORWARD_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")


class Keys:
    """The metadata of one file, by name without the architecture in front."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.family = file, str(file.metadata("general.architecture", ""))

    def get(self, name: str, default: Any = None) -> Any:
        return self.file.metadata(f"{self.family}.{name}", default)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive whole number. Raises ModelFileError where it is missing and has no default."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or value <= 0:
            key = f"{self.family}.{name}"
            raise ModelFileError(
                f"{self.file.path}: the metadata key {key} is missing or not a positive number; export the model again"
            )
        return int(value)

    def real(self, name: str, default: float) -> float:
        """A finite number. Raises ModelFileError for anything else."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ModelFileError(
                f"{self.file.path}: the metadata key {self.family}.{name} is no number; export the model again"
            )
        return float(value)

    def blocks(self) -> int:
        """Of how many the file speaks; no more than it has tensors. Raises ModelFileError."""
        count = self.count("block_count")
        if count > len(self.file.tensors):
            raise ModelFileError(f"{self.file.path}: its metadata speak of {count} blocks; export the model again")
        return count

    def rotated(self, head_width: int, name: str = "rope.dimension_count") -> int:
        """Elements of a head that turn. Raises ModelFileError where there are more than elements."""
        count = self.count(name, head_width)
        if count > head_width:
            raise ModelFileError(
                f"{self.file.path}: {self.family}.{name} is {count} and a head is {head_width} wide; "
                f"export the model again"
            )
        return count

    def each_layer(self, name: str, layers: int, default: int | None = None) -> tuple[int, ...]:
        """A number for each layer, from one for all or a list. Raises ModelFileError for a list of another length."""
        value = self.get(name, default)
        if not isinstance(value, Sequence):
            return (int(value),) * layers if value == 0 else (self.count(name, default),) * layers
        if len(value) < layers:
            raise ModelFileError(
                f"{self.file.path}: {self.family}.{name} has {len(value)} values for {layers} layers; "
                f"export the model again"
            )
        return tuple(int(each) for each in value[:layers])

    def refuse(self, what: str) -> FineTuningNotSupportedError:
        return FineTuningNotSupportedError(f"{self.file.path}: {what} cannot be tuned yet; use the model set")


def decoder(
    file: GGUFFile,
    *,
    halves: bool = False,
    tensors: tuple[str, ...] = DENSE,
    optional: tuple[str, ...] = (),
    scale: float = 0.0,
    **settings: Any,
) -> ModelConfig:
    """The Spec of a plain decoder; families change what is theirs.

    `halves` is the kind of RoPE, `scale` that of the scores (0: one over the root of a head's width).
    Raises ModelFileError for missing keys, FineTuningNotSupportedError for a variant that the decoder cannot run.
    """
    keys = Keys(file)
    width, count = keys.count("embedding_length"), keys.blocks()
    heads = keys.each_layer("attention.head_count", count)
    kv_heads = keys.each_layer("attention.head_count_kv", count, heads[0])
    head_width = keys.count("attention.key_length", width // max(heads))
    if keys.count("attention.value_length", head_width) != head_width:
        raise keys.refuse("a model whose keys and values have different widths")
    rope = read_rope(keys, head_width, halves=halves)
    feed_forward = keys.each_layer("feed_forward_length", count)
    epsilon = "attention.layer_norm_epsilon" if settings.get("centred") else "attention.layer_norm_rms_epsilon"
    return ModelConfig(
        family=keys.family,
        layers=tuple(
            LayerConfig(
                Heads(heads[i], kv_heads[i], head_width, scale or 1.0 / math.sqrt(head_width)),
                rope,
                feed_forward[i],
                tensors,
                optional,
            )
            for i in range(count)
        ),
        width=width,
        vocabulary=_rows(file, "token_embd.weight"),
        context=keys.count("context_length"),
        epsilon=keys.real(epsilon, 1e-5),
        **settings,
    )


def mixture(file: GGUFFile, *, width: int | None = None) -> Experts:
    """How many experts there are, are used and are wide; `width` where no key says it.

    Raises ModelFileError where a count is missing, or more experts are used than there are.
    """
    keys = Keys(file)
    experts = Experts(
        keys.count("expert_count"), keys.count("expert_used_count"), keys.count("expert_feed_forward_length", width)
    )
    if experts.used > experts.count:
        raise ModelFileError(
            f"{file.path}: {experts.used} of {experts.count} experts are to be used; export the model again"
        )
    return experts


def every(spec: ModelConfig, change: Callable[[int, LayerConfig], LayerConfig]) -> ModelConfig:
    """The Spec with each of its layers changed, by number."""
    return replace(spec, layers=tuple(change(index, layer) for index, layer in enumerate(spec.layers)))


def slides(keys: Keys, layers: int, period: int, *, first_whole: bool = False) -> tuple[bool, ...]:
    """Which layers see a sliding window: all but one in `period`, the last of them or the first.

    The key may hold another period, or say it for each layer.
    """
    value = keys.get("attention.sliding_window_pattern", period)
    if isinstance(value, Sequence):
        return tuple(map(bool, keys.each_layer("attention.sliding_window_pattern", layers)))
    whole = 0 if first_whole else int(value) - 1
    return tuple(int(value) == 0 or index % int(value) != whole for index in range(layers))


def windowed(spec: ModelConfig, sliding: Sequence[bool], window: int, rope: Rope | None = None) -> ModelConfig:
    """The Spec with a window for the layers that slide, and `rope` instead of theirs where given."""

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        if not sliding[index]:
            return layer
        return replace(layer, heads=replace(layer.heads, window=window), rope=rope or layer.rope)

    return every(spec, change)


def _rows(file: GGUFFile, name: str) -> int:
    if name not in file.tensors:
        raise ModelFileError(f"{file.path}: the tensor {name} is missing; export the model again")
    return int(file.tensors[name].shape[0])


# --- rotary positions ---


def plain_rope(base: float, rotated: int, *, halves: bool) -> Rope:
    """RoPE without any scaling; `rotated` elements of each head turn. Raises ValueError for what cannot be one."""
    if base <= 0 or rotated > WIDEST:
        raise ValueError(f"a rotation of {rotated} elements by the base {base}")
    frequencies_F = base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    return Rope(tuple(frequencies_F.tolist()), 1.0, halves)


def read_rope(keys: Keys, head_width: int, *, halves: bool, factors: bool = True) -> Rope:
    """RoPE as the file describes it, with its scaling and, with `factors`, its factor for each pair.

    llama.cpp: ggml/src/ggml-cpu/ops.cpp (ggml_rope_cache_init, rope_yarn) and src/llama-context.cpp.
    Raises FineTuningNotSupportedError for an unknown scaling, ModelFileError for factors of another number.
    """
    file, rotated = keys.file, keys.rotated(head_width)
    base = keys.real("rope.freq_base", 10000.0)
    frequencies_F = np.array(plain_rope(base, rotated, halves=halves).frequencies_F)
    # llama 3.1 has one factor for each pair, phi 3 short ones up to its first context and long ones beyond
    for name in ("rope_freqs.weight", "rope_factors_short.weight"):
        if factors and name in file.tensors:
            factors_F = file.tensor(name).reshape(-1).astype(np.float64)
            if len(factors_F) != len(frequencies_F):
                raise ModelFileError(
                    f"{file.path}: {name} has {len(factors_F)} factors for {len(frequencies_F)} rotated pairs"
                )
            frequencies_F = frequencies_F / factors_F
    kind = str(keys.get("rope.scaling.type", "linear"))
    gain = keys.real("rope.scaling.attn_factor", 1.0)
    factor = float(keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 1.0)) or 1.0)
    if kind == "linear":
        frequencies_F = frequencies_F / factor
    elif kind == "yarn":
        kept_F = _kept(keys, rotated, base)
        frequencies_F = frequencies_F / factor * (1.0 - kept_F) + frequencies_F * kept_F
        gain *= (1.0 + 0.1 * math.log(factor)) / (1.0 + 0.1 * keys.real(LOG_MULTIPLIER, 0.0) * math.log(factor))
    elif kind not in ("none", "longrope"):
        raise keys.refuse(f"the rope scaling {kind!r}")
    return Rope(tuple(frequencies_F.tolist()), gain, halves)


def _kept(keys: Keys, rotated: int, base: float) -> np.ndarray:
    """YaRN (Peng et al., arXiv 2309.00071) as llama.cpp computes it: slow pairs are stretched, fast ones kept.

    The kept share of each pair, (F,).
    """
    original = keys.count("rope.scaling.original_context_length", keys.count("context_length"))
    beta_fast = keys.real("rope.scaling.yarn_beta_fast", 32.0)
    beta_slow = keys.real("rope.scaling.yarn_beta_slow", 1.0)

    def pair_of(turns: float) -> float:
        return rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(0.0, math.floor(pair_of(beta_fast)))
    high = min(rotated - 1.0, math.ceil(pair_of(beta_slow)))
    pairs_F = np.arange(rotated // 2, dtype=np.float64)
    return 1.0 - np.clip((pairs_F - low) / max(0.001, high - low), 0.0, 1.0)
