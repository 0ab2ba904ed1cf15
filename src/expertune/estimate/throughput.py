"""Measure training throughput on the model's first blocks and extrapolate to all of them.

The first block is timed alone (with embeddings, head and optimiser), then the first few; the difference is the cost of
whole blocks. The remaining blocks are scaled by their multiplications per token.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import Config, with_changes
from ..gguf.read import GGUFFile
from ..model.arch import read_config
from ..model.config import LayerConfig, ModelConfig
from ..model.load import Tunable, load, place
from ..model.memory import RowShape, matrices, tokens_at_once
from ..model.target_modules import first_adapted
from ..train.code_branch import CodeTokens
from ..train.encode import Candidates, Row
from ..train.evaluate import evaluate
from ..train.loop import Trainer, TrainingData
from ..train.recipe import with_recipe
from .capability import TrainingThroughput

BLOCKS = (3, 8)  # whole blocks to time: the first number if blocks are small, at most the second
ENOUGH = 400_000_000  # multiplications per token: one block of a 13 B model, two of a 7 B model
SECONDS, ROUNDS = 3.0, 6  # no round but the second starts after so many seconds
FLATTER = 1e-3  # of the logits
ATTENTION = 3.5  # products in attention, forward and backward, per two in a linear layer; scores are recomputed


def probe(path: Path, shape: RowShape, config: Config | None = None) -> TrainingThroughput:
    """Measure on rows of this shape, with the device, dtype and weight cache that a run would choose.

    Raises FineTuningNotSupportedError, ModelFileError as `load`.
    """
    config = config or Config()
    with GGUFFile(path) as file:
        spec, placement = read_config(file), place(file, config)
        work = [_work(file, spec, index, shape) for index in range(len(spec.layers))]
        config = with_recipe(file, config)
        first = first_adapted(spec, config.layers)
        rows = shape.pack_rows(config.batch_size, tokens_at_once(placement.device.type, spec, first))
        config = with_changes(config, batch_size=rows, gradient_accumulation_steps=1)
        few = sorted({1, min(len(work), 1 + whole_blocks(spec.layers, work))})
        parts, loading = [], []
        for count in few:
            start = time.perf_counter()
            parts.append(_flattened(load(file, config, placement, row_tokens=shape.longest, blocks=count)))
            loading.append(time.perf_counter() - start)
        validations, steps = _seconds(parts, config, _data(shape, spec.vocabulary, rows))
    tokens = rows * shape.row
    each, each_step = (_seconds_per_work(few, seconds, work) for seconds in (validations, steps))
    mean_work = sum(work) / len(work)
    return TrainingThroughput(
        tokens_per_second=tokens / carried_over(few, steps, work, first),
        look_tokens_per_second=tokens / carried_over(few, validations, work, first),
        trunk_seconds_per_token=each * sum(work[:first]) / tokens,
        device=placement.device.type,
        precision="bf16" if placement.dtype.itemsize == 2 else "fp32",
        threads=placement.threads,
        base_memory="cached" if placement.cached else "packed",
        recomputed=parts[0].decoder.recompute,
        block_seconds_per_token=each_step * mean_work / tokens,
        block_look_seconds_per_token=each * mean_work / tokens,
        load_seconds=carried_over(few, loading, work),
    )


def whole_blocks(layers: Sequence[LayerConfig], work: Sequence[float]) -> int:
    """Number of whole blocks to time: until each kind of layer has occurred, more if blocks are small, and one if that
    is enough work."""
    kinds, met = set(layers), set[LayerConfig]()
    done = 0.0
    for count, (layer, own) in enumerate(zip(layers, work, strict=True), start=1):
        met.add(layer)
        done += own
        if count >= BLOCKS[1] or (count >= BLOCKS[0] and met == kinds) or done + own > ENOUGH:
            return count
    return len(layers)


def carried_over(blocks: Sequence[int], seconds: Sequence[float], work: Sequence[float], first: int = 0) -> float:
    """Extrapolate to the seconds with all blocks from `first` on from those with a few blocks, the fewest first.

    The last block computes little more than the wanted positions, so `n` blocks are n − 1 whole ones and an end.
    """
    return seconds[0] + _seconds_per_work(blocks, seconds, work) * sum(work[blocks[0] - 1 + first : len(work) - 1])


def _seconds_per_work(blocks: Sequence[int], seconds: Sequence[float], work: Sequence[float]) -> float:
    """Seconds of a whole block per multiplication of one token in it; 0 if there is only one block."""
    if len(blocks) == 1:
        return 0.0
    return max(0.0, seconds[-1] - seconds[0]) / sum(work[blocks[0] - 1 : blocks[-1] - 1])


def _work(file: GGUFFile, spec: ModelConfig, index: int, shape: RowShape) -> float:
    """Multiplications per token in a block: active experts only, and the tokens that attention reads."""
    used = 1.0 if spec.experts is None else spec.experts.used / spec.experts.count
    products = sum(math.prod(info.shape) * (used if len(info.shape) > 2 else 1) for info in matrices(file, index))
    heads = spec.layers[index].heads
    seen = min(shape.row / 2, heads.window or math.inf)
    return products + ATTENTION * heads.queries * heads.width * seen


def _seconds(parts: Sequence[Tunable], config: Config, data: TrainingData) -> tuple[list[float], list[float]]:
    """Seconds of a validation of the rows and of a training step, for each number of blocks."""
    trainers = [Trainer(part, data, config) for part in parts]
    rows = data.dev
    validations = [functools.partial(evaluate, part, rows, data.candidates, batch_size=len(rows)) for part in parts]
    seconds = best_seconds([*validations, *(trainer.one_step for trainer in trainers)])
    return seconds[: len(parts)], seconds[len(parts) :]


def _flattened(part: Tunable) -> Tunable:
    """Make the logits small: after one block a head that shares the embeddings is certain of the token itself, and a
    processor takes long over the others' probabilities, too small for a normal float (Gemma 3: 12 s a step)."""
    part.decoder.head = replace(part.decoder.head, scale=FLATTER * part.decoder.head.scale)
    return part


def _data(shape: RowShape, vocabulary: int, count: int) -> TrainingData:
    """Rows of random tokens: their values do not change the cost, and they reach all experts.

    They have two labels, with a code each if the shape has the lead of a code branch.
    """
    draw = np.random.default_rng(0)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(draw.integers(0, vocabulary, size).tolist())

    beginning = tokens(shape.shared)
    rows = [
        Row(str(index), 0, beginning + tokens(shape.prompt - shape.shared), tokens(shape.answer), (1.0,) * shape.answer)
        for index in range(count)
    ]
    code = CodeTokens(tokens(shape.lead), (0, 1)) if shape.lead else None
    return TrainingData(rows, rows, Candidates((), ((0,), (1,)), code))


def best_seconds(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Shortest of several timings of each run, taken in turn, so that other load affects all runs alike.

    Two at least: the first one also sets up the kernels.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for run, own in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            run()
            own.append(time.perf_counter() - began)
        if len(seconds[0]) > 1 and time.perf_counter() - start > SECONDS:
            break
    return [min(own) for own in seconds]
