"""What the decoder is told about a model: frozen records, filled by one small file for each family.

Axes: F rotated pairs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary positions. `frequencies_F` are the angles per position of each rotated pair, all scalings included.

    `gain` multiplies sine and cosine (YaRN's attention factor). A pair is two neighbours of a head, or with `halves`
    an element of the first half of the rotated part and its partner in the second. Elements behind the pairs stay.
    """

    frequencies_F: tuple[float, ...]
    gain: float
    halves: bool


@dataclass(frozen=True)
class Heads:
    """Query heads, key heads, width of a head, scale of the scores.

    `window` is how many tokens a query sees, itself the last of them (0: all). `cap` bounds the scores softly (0: not).
    """

    queries: int
    keys: int
    width: int
    scale: float
    window: int = 0
    cap: float = 0.0

    @property
    def stacked(self) -> int:
        """Width of queries, keys and values beside each other."""
        return (self.queries + 2 * self.keys) * self.width


@dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Linear attention: heads of keys (and as many queries) and of values, and the width of each.

    A key head serves `neighbours`, the values' heads beside each other, or one of each round of them. `joined`: one
    matrix makes β and the fading, by key head; otherwise each has its own.
    """

    keys: int
    values: int
    width: int
    neighbours: bool
    joined: bool

    @property
    def convolved(self) -> int:
        """Width of queries, keys and values beside each other."""
        return (2 * self.keys + self.values) * self.width


@dataclass(frozen=True)
class LayerConfig:
    """One block. `tensors` must be in the file and `optional` ones may; names as in the GGUF behind "blk.N.".

    A name without an ending stands for its ".weight". `keys_of` is the layer whose keys and values this one uses.
    `gated` attention weighs what each head gives. With `taps` a convolution over that many tokens stands in the place
    of attention, alone or, with `delta`, before linear attention.
    """

    heads: Heads
    rope: Rope | None
    feed_forward: int
    tensors: tuple[str, ...]
    optional: tuple[str, ...] = ()
    keys_of: int | None = None
    gated: bool = False
    taps: int = 0
    delta: GatedDeltaNetConfig | None = None


@dataclass(frozen=True)
class Experts:
    """A mixture: `used` of `count` feed-forward networks of `width` for each token."""

    count: int
    used: int
    width: int


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder needs to know. Widths in numbers, `context` in tokens.

    `centred` norms take the mean away (layer norm), the others do not (root mean square). `parallel` blocks feed
    attention and feed-forward the same input. A `gated` feed-forward multiplies two of its products, one of them after
    the activation: "silu", "gelu" or gpt-oss's "bounded". `feed_forward_norm` names the norm before the feed-forward.
    `normed_values` have a norm without weight. `own_input` is the width of what each layer is told of a token beside
    the stream (0: nothing). `output_norm` names the last norm. `spare` are blocks behind the layers that nobody asks
    for a rating (they guess tokens ahead) and that stay as they are.
    """

    family: str
    layers: tuple[LayerConfig, ...]
    width: int
    vocabulary: int
    context: int
    epsilon: float
    centred: bool = False
    parallel: bool = False
    activation: str = "silu"
    gated: bool = True
    experts: Experts | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0
    feed_forward_norm: str = "ffn_norm"
    normed_values: bool = False
    own_input: int = 0
    output_norm: str = "output_norm"
    spare: int = 0
