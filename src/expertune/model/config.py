"""Decoder configuration, read from GGUF metadata by one function for each architecture (`families`).

Axes: F rotated pair of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. `inv_freq_F` is the angle per position of each rotated pair, all scaling included.

    `attention_factor` multiplies sine and cosine (YaRN). `neox_style` pairs element i of the rotated part with element
    i + F (GPT-NeoX, transformers); otherwise a pair is two adjacent elements (GPT-J, Meta's Llama). The elements of a
    head after the 2F rotated ones stay as they are.
    """

    inv_freq_F: tuple[float, ...]
    attention_factor: float
    neox_style: bool


@dataclass(frozen=True)
class Heads:
    """Numbers of query heads and of key-value heads, width of one head, scale of the attention scores.

    `window` is the number of tokens that a query attends to, its own token included (0: no limit). `softcap` limits the
    scores smoothly to ±softcap (0: no limit).
    """

    queries: int
    keys: int
    width: int
    scale: float
    window: int = 0
    softcap: float = 0.0

    @property
    def qkv_width(self) -> int:
        return (self.queries + 2 * self.keys) * self.width


KeyRepeat = Literal["interleave", "tile"]


@dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Linear attention: number of key heads (and of query heads), number of value heads, width of one head.

    Key heads are repeated for the value heads: "interleave" serves adjacent value heads with one key head
    (repeat_interleave), "tile" repeats the whole sequence of key heads. With `fused_beta_alpha` one matrix (ssm_ba)
    produces β and the decay, grouped by key head; otherwise each has a matrix of its own.
    """

    keys: int
    values: int
    width: int
    key_repeat: KeyRepeat
    fused_beta_alpha: bool

    @property
    def conv_width(self) -> int:
        """Width of the concatenated queries, keys and values, which are convolved together."""
        return (2 * self.keys + self.values) * self.width


@dataclass(frozen=True)
class LayerConfig:
    """One block. The file must contain `tensors` and may contain `optional`; names as in the GGUF after "blk.N.".

    A name without an ending stands for its ".weight". `kv_shared_with` is the index of the layer whose keys and values
    this one reuses. `output_gate`: the attention output is multiplied by a sigmoid gate. A `conv_kernel` above 0 is the
    width of a short causal convolution, which replaces attention or, with `gated_delta_net`, precedes linear attention.
    """

    heads: Heads
    rope: Rope | None
    feed_forward: int
    tensors: tuple[str, ...]
    optional: tuple[str, ...] = ()
    kv_shared_with: int | None = None
    output_gate: bool = False
    conv_kernel: int = 0
    gated_delta_net: GatedDeltaNetConfig | None = None


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: each token uses `used` of `count` feed-forward networks with inner width `width`."""

    count: int
    used: int
    width: int


@dataclass(frozen=True)
class ModelConfig:
    """One decoder.

    - `layernorm`: norms subtract the mean (LayerNorm); otherwise they are RMSNorm.
    - `parallel_residual`: attention and feed-forward of a block read the same input.
    - `activation`: "silu", "gelu" (tanh form) or "swiglu_oai" (gpt-oss). `gated`: the feed-forward multiplies the
      activated gate by a second projection (SwiGLU, GeGLU).
    - `logit_softcap` limits the logits smoothly to ±logit_softcap (0: no limit).
    - `feed_forward_norm` and `output_norm` are the GGUF's names of the norms before the feed-forward and the head.
    - `value_norm`: the values have an RMSNorm without weights.
    - `per_layer_embedding_dim`: width of the embedding that each layer has of its own (Gemma's PLE; 0: none).
    - `mtp_layers`: blocks after `layers` for multi-token prediction; they are neither trained nor run.
    """

    family: str
    layers: tuple[LayerConfig, ...]
    width: int
    vocabulary: int
    epsilon: float
    layernorm: bool = False
    parallel_residual: bool = False
    activation: str = "silu"
    gated: bool = True
    experts: Experts | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    feed_forward_norm: str = "ffn_norm"
    value_norm: bool = False
    per_layer_embedding_dim: int = 0
    output_norm: str = "output_norm"
    mtp_layers: int = 0
