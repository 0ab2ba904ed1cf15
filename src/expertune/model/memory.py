"""Estimate the memory that training needs from a file's header alone, without torch and before anything is loaded.

The choices that `load` makes (float copies or quantised blocks, activations kept or recomputed) are made here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..gguf.read import GGUFFile, TensorInfo
from .config import LayerConfig, ModelConfig
from .target_modules import adapted_names

LIBRARIES = 440_000_000  # torch, numpy, pandas, scikit-learn and the kernels that they load (bench/README.md)
SLACK = 1.25  # allocator overhead over the tensors of a step, measured on three models (bench/README.md)
ADAPTER_COPIES = 7  # float32: parameters, gradients, two moments, the best state, a copy of it, AdamW's temporary
LOGITS_AT_ONCE = 1 << 24  # elements; limits the float32 logits held at once to 64 MB
LOGITS_AT_ONCE_ON_CUDA = 1 << 26  # fewer and larger chunks: 256 MB
LOGIT_COPIES = 3  # the product, its float32 form, the log-probabilities
# A larger batch is split into micro-batches whose gradients are added: activations stay small, and on a CPU larger
# matrix multiplications are not faster (docs/LOG.md)
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16384, "mps": 4096}
DEV_ROWS = 8  # in one pack of a dev evaluation
LABEL_TOKENS = 12  # of all labels after one dev row


@dataclass(frozen=True)
class RowShape:
    """Lengths of the rows in tokens: mean prompt, mean answer, longest row, the prefix that all prompts share (computed
    once per pack), and the lead of the code branch after each prompt, which `row` does not count."""

    prompt: int
    answer: int
    longest: int
    shared: int = 0
    lead: int = 0

    @property
    def row(self) -> int:
        return self.prompt + self.answer

    def pack_rows(self, rows: int, limit: int) -> int:
        """Rows per micro-batch if a batch of `rows` is split evenly into parts of about `limit` tokens."""
        tokens = self.shared + rows * (self.row - self.shared)
        return math.ceil(rows / min(rows, math.ceil(tokens / limit)))

    def largest_pack(self, rows: int, limit: int) -> int:
        """Tokens that the model computes for the largest pack of `rows` rows."""
        return max(self.longest, min(rows * (self.longest - self.shared) + self.shared, limit))


def tokens_at_once(device: str, config: ModelConfig, first: int) -> int:
    """Tokens of a micro-batch: more if only the blocks from `first` on keep activations."""
    return TOKENS_AT_ONCE[device] * len(config.layers) // (len(config.layers) - first)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of training. `base`: its weights as they are kept; `loading`: read from the file and released
    before training; `working`: activations and temporaries of a step."""

    base: int
    loading: int
    adapter: int
    working: int
    libraries: int
    cached: bool
    recomputed: bool

    @property
    def peak(self) -> int:
        """Loading ends before the first step begins."""
        return self.libraries + self.base + self.adapter + max(self.loading, self.working)


def estimate_memory(
    file: GGUFFile,
    config: ModelConfig,
    shape: RowShape,
    *,
    item: int,
    rank: int,
    batch: int,
    at_once: int,
    cached: bool,
    recomputed: bool,
    first: int = 0,
) -> MemoryEstimate:
    """Estimate training with numbers of `item` bytes and batches of `batch` rows in packs of about `at_once` tokens.

    The blocks from `first` on have an adapter and keep activations.
    """
    packed = sum(info.nbytes for info in _kept(file))
    numbers = adapter_numbers(file, config, rank, first)
    trained = replace(config, layers=config.layers[first:])
    working = SLACK * max(
        _step_bytes(trained, shape, item, batch, at_once, recomputed), _evaluation_bytes(config, shape, item)
    )
    return MemoryEstimate(
        base=weights_bytes(file, item) if cached else packed + _scratch(file, item),
        loading=packed if cached else 0,
        adapter=numbers * (4 * ADAPTER_COPIES + item),
        working=round(working),
        libraries=LIBRARIES,
        cached=cached,
        recomputed=recomputed,
    )


def bytes_on_gpu(file: GGUFFile, needed: MemoryEstimate, item: int) -> int:
    """Bytes of a GPU's memory with dequantised weights. Libraries and the file's pages are in the computer's memory;
    embeddings that are not also the output head have a table on the GPU (model/build.py)."""
    table = math.prod(file.tensors["token_embd.weight"].shape) if "output.weight" in file.tensors else 0
    return needed.base + item * table + needed.adapter + needed.working


def fits_cached(file: GGUFFile, item: int, free: int) -> bool:
    """Float copies of the base avoid dequantising in each step; used if they fit in half of the free memory."""
    return weights_bytes(file, item) < free // 2


def must_recompute(config: ModelConfig, row_tokens: int, item: int, free: int, *, first: int = 0) -> bool:
    """Activations of the blocks from `first` on are kept if they fit in a quarter of the free memory; otherwise each
    block recomputes them."""
    return row_tokens * sum(_kept_by(config, layer, item) for layer in config.layers[first:]) > free // 4


def weights_bytes(file: GGUFFile, item: int) -> int:
    """Bytes of the base with `item` bytes per weight."""
    return item * sum(math.prod(info.shape) for info in _kept(file))


def adapter_numbers(file: GGUFFile, config: ModelConfig, rank: int, first: int = 0) -> int:
    """Number of parameters of an adapter on every linear layer of the blocks from `first` on."""
    return sum(rank * sum(file.tensors[f"{name}.weight"].shape) for name in adapted_names(file, config, "all", first))


def matrices(file: GGUFFile, index: int) -> Iterable[TensorInfo]:
    prefix = f"blk.{index}."
    return (info for name, info in file.tensors.items() if name.startswith(prefix) and len(info.shape) > 1)


def _kept(file: GGUFFile) -> Iterator[TensorInfo]:
    """All tensors but the embeddings, which are read row by row, unless they are also the output head."""
    for name, info in file.tensors.items():
        head = name == "token_embd.weight" and "output.weight" not in file.tensors
        if head or not name.endswith("token_embd.weight"):
            yield info


def _scratch(file: GGUFFile, item: int) -> int:
    """Buffer for dequantised weights: the head, or two of the largest matrices fused."""
    largest = max(
        (math.prod(info.shape[-2:]) for name, info in file.tensors.items() if name.startswith("blk.")), default=0
    )
    head = file.tensors.get("output.weight") or file.tensors["token_embd.weight"]
    return item * max(math.prod(head.shape), 2 * largest)


def _step_bytes(config: ModelConfig, shape: RowShape, item: int, batch: int, at_once: int, recomputed: bool) -> int:
    rows = shape.pack_rows(batch, at_once)
    kept_by, stream = [_kept_by(config, layer, item) for layer in config.layers], 4 * config.width
    widest = max(kept_by)
    kept = len(config.layers) * stream + widest if recomputed else sum(kept_by)
    # during a block's backward pass: gradients of its kept activations, and its recomputed norms
    tokens = shape.largest_pack(rows, at_once)
    return tokens * (kept + widest + 4 * stream) + _scores(config, shape, item) + _logits(config, rows * shape.answer)


def _evaluation_bytes(config: ModelConfig, shape: RowShape, item: int) -> int:
    """A dev evaluation keeps nothing: activations of one block, and the residual stream before and after it."""
    tokens = DEV_ROWS * (shape.row - shape.shared + LABEL_TOKENS) + shape.shared
    width = max(_kept_by(config, layer, item) for layer in config.layers) + 4 * 4 * config.width
    return tokens * width + _scores(config, shape, item) + _logits(config, DEV_ROWS * (shape.answer + LABEL_TOKENS))


def _kept_by(config: ModelConfig, layer: LayerConfig, item: int) -> int:
    """Bytes per token that a block keeps for the backward pass: the residual stream before both parts and the inputs of
    post norms, in float32; QKV, twice if it is normalised; attention output and inner activations."""
    heads, names = layer.heads, {*layer.tensors, *layer.optional}
    qkv = heads.qkv_width * (2 if "attn_q_norm" in names else 1)
    stream = 2 + len(names & {"post_attention_norm", "post_ffw_norm"})
    return item * (qkv + heads.queries * heads.width + 2 * layer.feed_forward) + 4 * config.width * stream


def _scores(config: ModelConfig, shape: RowShape, item: int) -> int:
    """Attention of one row, 512 queries at once: mask; in the backward pass scores, their gradient and a copy."""
    heads = max(layer.heads.queries for layer in config.layers)
    return 4 * item * heads * min(512, shape.longest) * shape.longest


def _logits(config: ModelConfig, places: int) -> int:
    return 4 * LOGIT_COPIES * config.vocabulary * min(places, max(1, LOGITS_AT_ONCE // config.vocabulary))
