"""GGUF metadata → decoder settings. One small spec for each family; a family without one is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile


@dataclass(frozen=True)
class Spec:
    """What the decoder needs to know. Widths in numbers, `context` in tokens.

    `frequencies_F` are the rotary angles per position of each pair of a head, all scalings included;
    `rope_gain` multiplies sine and cosine (YaRN's attention factor).
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    context: int
    epsilon: float
    frequencies_F: tuple[float, ...]
    rope_gain: float
    attention_scale: float


def read_spec(file: GGUFFile) -> Spec:
    """The decoder's settings from an open GGUF.

    Raises FineTuningNotSupportedError for a family or a variant that Expertune cannot tune,
    ModelFileError where a needed key or tensor is missing.
    """
    if int(file.metadata("split.count", 1) or 1) > 1:
        raise FineTuningNotSupportedError(
            f"{file.path}: is one part of a split model; join the parts with llama-gguf-split --merge"
        )
    family = str(file.metadata("general.architecture", ""))
    reader = FAMILIES.get(family)
    if reader is None:
        raise FineTuningNotSupportedError(
            f"{file.path}: the architecture {family or '(none)'!r} cannot be tuned yet "
            f"(supported: {', '.join(sorted(FAMILIES))}); use the model set instead"
        )
    return reader(file)


def _llama(file: GGUFFile) -> Spec:
    """llama 2 and 3, mistral, tinyllama, smollm, deepseek-r1-distill-llama (llama.cpp, src/models/llama.cpp)."""
    if int(file.metadata("llama.expert_count", 0) or 0) > 0:
        raise FineTuningNotSupportedError(f"{file.path}: a mixture of experts cannot be tuned yet; use the model set")
    width, heads = _number(file, "llama.embedding_length"), _number(file, "llama.attention.head_count")
    kv_heads = int(_uniform(file, "llama.attention.head_count_kv", heads))
    head_width = int(file.metadata("llama.attention.key_length", width // heads))
    if int(file.metadata("llama.attention.value_length", head_width)) != head_width:
        raise FineTuningNotSupportedError(f"{file.path}: keys and values of different widths cannot be tuned yet")
    context = _number(file, "llama.context_length")
    frequencies_F, gain = _rope(file, "llama", head_width, context)
    return Spec(
        family="llama",
        layers=_number(file, "llama.block_count"),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        feed_forward=int(_uniform(file, "llama.feed_forward_length", None)),
        vocabulary=_tensor_rows(file, "token_embd.weight"),
        context=context,
        epsilon=float(file.metadata("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        frequencies_F=tuple(float(value) for value in frequencies_F),
        rope_gain=gain,
        attention_scale=1.0 / math.sqrt(head_width),
    )


FAMILIES: dict[str, Callable[[GGUFFile], Spec]] = {"llama": _llama}


def _number(file: GGUFFile, key: str) -> int:
    value = file.metadata(key, None)
    if not isinstance(value, (int, float)) or value <= 0:
        raise ModelFileError(
            f"{file.path}: the metadata key {key} is missing or not a positive number; export the model again"
        )
    return int(value)


def _uniform(file: GGUFFile, key: str, default: int | None) -> int:
    """A number that may be given once for each layer; layers that differ are refused."""
    value = file.metadata(key, default)
    if isinstance(value, (int, float)):
        return int(value)
    values = {int(each) for each in value} if value is not None else set()
    if len(values) != 1:
        raise FineTuningNotSupportedError(f"{file.path}: {key} differs from layer to layer; use the model set instead")
    return values.pop()


def _tensor_rows(file: GGUFFile, name: str) -> int:
    if name not in file.tensors:
        raise ModelFileError(f"{file.path}: the tensor {name} is missing; export the model again")
    return int(file.tensors[name].shape[0])


def _rope(file: GGUFFile, family: str, head_width: int, context: int) -> tuple[np.ndarray, float]:
    """Angles per position (F = head_width / 2, float64) and the gain of sine and cosine.

    llama.cpp: ggml/src/ggml-cpu/ops.cpp (ggml_rope_cache_init, rope_yarn) and src/llama-context.cpp.
    """
    dimensions = int(file.metadata(f"{family}.rope.dimension_count", head_width))
    if dimensions != head_width:
        raise FineTuningNotSupportedError(f"{file.path}: partly rotated heads cannot be tuned yet; use the model set")
    base = float(file.metadata(f"{family}.rope.freq_base", 10000.0))
    frequencies_F = base ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    if "rope_freqs.weight" in file.tensors:  # llama 3.1: one factor for each pair
        frequencies_F = frequencies_F / file.tensor("rope_freqs.weight").reshape(-1).astype(np.float64)
    kind = str(file.metadata(f"{family}.rope.scaling.type", "linear"))
    factor = float(
        file.metadata(f"{family}.rope.scaling.factor", file.metadata(f"{family}.rope.scale_linear", 1.0)) or 1.0
    )
    if kind == "none":
        return frequencies_F, 1.0
    if kind == "linear":
        return frequencies_F / factor, 1.0
    if kind != "yarn":
        raise FineTuningNotSupportedError(
            f"{file.path}: the rope scaling {kind!r} cannot be tuned yet; use the model set"
        )
    return _yarn(file, family, frequencies_F, factor, base, head_width, context)


def _yarn(
    file: GGUFFile, family: str, frequencies_F: np.ndarray, factor: float, base: float, head_width: int, context: int
) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al., arXiv 2309.00071) as llama.cpp computes it: slow pairs are stretched, fast ones kept."""
    original = int(file.metadata(f"{family}.rope.scaling.original_context_length", context))
    beta_fast = float(file.metadata(f"{family}.rope.scaling.yarn_beta_fast", 32.0))
    beta_slow = float(file.metadata(f"{family}.rope.scaling.yarn_beta_slow", 1.0))

    def pair_of(turns: float) -> float:
        return head_width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(0.0, math.floor(pair_of(beta_fast)))
    high = min(head_width - 1.0, math.ceil(pair_of(beta_slow)))
    pairs_F = np.arange(head_width // 2, dtype=np.float64)
    kept_F = 1.0 - np.clip((pairs_F - low) / max(0.001, high - low), 0.0, 1.0)
    gain = float(file.metadata(f"{family}.rope.scaling.attn_factor", 1.0)) * (1.0 + 0.1 * math.log(factor))
    return frequencies_F / factor * (1.0 - kept_F) + frequencies_F * kept_F, gain
