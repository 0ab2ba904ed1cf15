"""How much memory training takes, from a file's header alone: without torch, and before anything is loaded.

What `load` decides (float copies or packed blocks, activations kept or made again) is decided here, for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..gguf.read import GGUFFile, TensorInfo
from .config import LayerConfig, ModelConfig
from .target_modules import adapted_names

LIBRARIES = 440_000_000  # torch, numpy, pandas, scikit-learn and the kernels that they load (bench/README.md)
SLACK = 1.25  # what the allocator holds beside the tensors of a step, seen on three models (bench/README.md)
ADAPTER_COPIES = 7  # float32: numbers, gradients, two moments, the best state, the best trial's, AdamW's temporary
LOGITS_AT_ONCE = 1 << 24  # elements; bounds the float32 logits held at once to 64 MB
LOGIT_COPIES = 3  # the product, its float32 form, the logarithms
# A batch above this goes through the model in parts, their gradients added: activations stay small, and on a CPU
# nothing is gained by larger products (docs/LOG.md)
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16384, "mps": 4096}
DEV_ROWS = 8  # in one look at the dev rows
LABEL_TOKENS = 12  # of all labels after one dev row


@dataclass(frozen=True)
class RowShape:
    """Rows as training meets them, in tokens: a mean row's prompt and answer, the longest row, and the beginning that
    all prompts share (computed once for the rows of a pack)."""

    prompt: int
    answer: int
    longest: int
    shared: int = 0

    @property
    def row(self) -> int:
        return self.prompt + self.answer

    def pack_rows(self, rows: int, limit: int) -> int:
        """Rows in one of the even parts that a batch of `rows` is cut into, each of about `limit` tokens."""
        return math.ceil(rows / min(rows, math.ceil(rows * self.row / limit)))

    def largest_pack(self, rows: int, limit: int) -> int:
        """Tokens that the largest pack of `rows` rows makes the model compute."""
        return max(self.longest, min(rows * (self.longest - self.shared) + self.shared, limit))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of training. `base` are its weights as they are kept, `loading` what is read from the file on
    the way there and given back, `working` the activations with what a batch's products need beside them."""

    base: int
    loading: int
    adapter: int
    working: int
    libraries: int
    cached: bool
    recomputed: bool

    @property
    def peak(self) -> int:
        """Loading and working come one after the other."""
        return self.libraries + self.base + self.adapter + max(self.loading, self.working)


def estimate_memory(
    file: GGUFFile,
    spec: ModelConfig,
    shape: RowShape,
    *,
    item: int,
    rank: int,
    batch: int,
    at_once: int,
    cached: bool,
    recomputed: bool,
) -> MemoryEstimate:
    """What training takes: numbers of `item` bytes, batches of `batch` rows cut into packs of `at_once` tokens."""
    packed = sum(info.nbytes for info in _kept(file))
    numbers = adapter_numbers(file, spec, rank)
    working = SLACK * max(_training(spec, shape, item, batch, at_once, recomputed), _looking(spec, shape, item))
    return MemoryEstimate(
        base=weights_bytes(file, item) if cached else packed + _scratch(file, item),
        loading=packed if cached else 0,
        adapter=numbers * (4 * ADAPTER_COPIES + item),
        working=round(working),
        libraries=LIBRARIES,
        cached=cached,
        recomputed=recomputed,
    )


def fits_cached(file: GGUFFile, item: int, free: int) -> bool:
    """Float copies of the base spare the unpacking in each step; taken where they fit in half of the free memory."""
    return weights_bytes(file, item) < free // 2


def must_recompute(spec: ModelConfig, row_tokens: int, item: int, free: int) -> bool:
    """Activations are kept where they fit in a quarter of the free memory, else each block's are made again."""
    return row_tokens * _kept_by_all(spec, item) > free // 4


def weights_bytes(file: GGUFFile, item: int) -> int:
    """The base as numbers of `item` bytes each."""
    return item * sum(math.prod(info.shape) for info in _kept(file))


def adapter_numbers(file: GGUFFile, spec: ModelConfig, rank: int) -> int:
    """Numbers of an adapter on every linear layer."""
    return sum(rank * sum(file.tensors[f"{name}.weight"].shape) for name in adapted_names(file, spec, "all"))


def matrices(file: GGUFFile, index: int) -> Iterable[TensorInfo]:
    """The tensors of a block with two axes or more."""
    prefix = f"blk.{index}."
    return (info for name, info in file.tensors.items() if name.startswith(prefix) and len(info.shape) > 1)


def _kept(file: GGUFFile) -> Iterator[TensorInfo]:
    """All but the embeddings, which are read row by row; they stay where they are the output head too."""
    for name, info in file.tensors.items():
        head = name == "token_embd.weight" and "output.weight" not in file.tensors
        if head or not name.endswith("token_embd.weight"):
            yield info


def _scratch(file: GGUFFile, item: int) -> int:
    """The buffer that packed weights unpack into: the head, or two of the largest matrices beside each other."""
    largest = max(
        (math.prod(info.shape[-2:]) for name, info in file.tensors.items() if name.startswith("blk.")), default=0
    )
    head = file.tensors.get("output.weight") or file.tensors["token_embd.weight"]
    return item * max(math.prod(head.shape), 2 * largest)


def _training(spec: ModelConfig, shape: RowShape, item: int, batch: int, at_once: int, recomputed: bool) -> int:
    rows = shape.pack_rows(batch, at_once)
    widest, stream = max(_kept_by(spec, layer, item) for layer in spec.layers), 4 * spec.width
    kept = len(spec.layers) * stream + widest if recomputed else _kept_by_all(spec, item)
    # the block whose gradient is made holds the gradients of what it kept, and the inputs that it norms again
    tokens = shape.largest_pack(rows, at_once)
    return tokens * (kept + widest + 4 * stream) + _scores(spec, shape, item) + _logits(spec, rows * shape.answer)


def _looking(spec: ModelConfig, shape: RowShape, item: int) -> int:
    """A look at the dev rows keeps nothing: a block's products, and the stream before and behind it."""
    tokens = DEV_ROWS * (shape.row - shape.shared + LABEL_TOKENS) + shape.shared
    width = max(_kept_by(spec, layer, item) for layer in spec.layers) + 4 * 4 * spec.width
    return tokens * width + _scores(spec, shape, item) + _logits(spec, DEV_ROWS * (shape.answer + LABEL_TOKENS))


def _kept_by_all(spec: ModelConfig, item: int) -> int:
    return sum(_kept_by(spec, layer, item) for layer in spec.layers)


def _kept_by(spec: ModelConfig, layer: LayerConfig, item: int) -> int:
    """Bytes of a token that a block keeps for the backward: the stream before both parts and what norms behind them
    were given, in float32; stacked heads, again where they are normed; their output, and the inner products."""
    heads, names = layer.heads, {*layer.tensors, *layer.optional}
    stacked = heads.stacked * (2 if "attn_q_norm" in names else 1)
    stream = 2 + len(names & {"post_attention_norm", "post_ffw_norm"})
    return item * (stacked + heads.queries * heads.width + 2 * layer.feed_forward) + 4 * spec.width * stream


def _scores(spec: ModelConfig, shape: RowShape, item: int) -> int:
    """Of one row: the mask, and in the backward scores, their gradient and a copy; 512 queries at once."""
    heads = max(layer.heads.queries for layer in spec.layers)
    return 4 * item * heads * min(512, shape.longest) * shape.longest


def _logits(spec: ModelConfig, places: int) -> int:
    return 4 * LOGIT_COPIES * spec.vocabulary * min(places, max(1, LOGITS_AT_ONCE // spec.vocabulary))
