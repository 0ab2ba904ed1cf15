"""Estimate training time: the tokens of the rows over the measured throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ExpertuneError
from ..gguf.read import GGUFFile
from ..model.arch import read_config
from ..model.memory import RowShape
from ..ratings.dataset import Dataset, load_dataset
from ..ratings.schema import Example
from ..train.recipe import with_recipe
from .capability import REFERENCE, Capability, TrainingThroughput, estimate
from .job import RatingSpeed, Speeds, Work
from .rating_speed import measure_conversion, measure_rating
from .throughput_cache import cache_speed, cached_speed

if TYPE_CHECKING:
    from ..train.encode import Row

SAMPLE = 100  # rows that are tokenized to estimate the length of all
ROUND = 16  # tokens
# Largest errors of bench/estimate.py on its three models; see the table in bench/README.md
MEMORY_ERROR, RATE_ERROR = 0.04, 0.15


@dataclass(frozen=True)
class Plan:
    """Amount of training: rows of a shape, epochs, validation rows and number of validations (`validations`).

    `name` is the prefix of the description.
    """

    name: str
    shape: RowShape
    rows: int
    epochs: float
    dev_rows: int = 0
    validations: int = 0

    def words(self, tokens: str) -> str:
        """Describe the plan; `tokens` is the length of a row in words."""
        times = "once" if self.epochs == 1 else f"{self.epochs:g} times"
        return f"{self.name}{self.rows:,} rows of about {tokens} tokens, {times}"

    def seconds(self, rate: TrainingThroughput) -> float:
        """Training time without early stopping, with the pass through the blocks without an adapter."""
        tokens = self.epochs * self.rows * self.shape.row
        dev_tokens = self.validations * self.dev_rows * self.shape.row
        trunk = (self.rows + self.dev_rows) * self.shape.row * rate.trunk_seconds_per_token
        return tokens / rate.tokens_per_second + dev_tokens / rate.look_tokens_per_second + trunk


REFERENCE_PLAN = Plan("", REFERENCE, rows=1000, epochs=1.0)


def planned(dataset: Dataset, model: Path, config: Config | None = None) -> Plan:
    """Plan for a dataset; the model's own tokenizer counts the tokens of a sample spread over the rows.

    Raises EngineError if llama.cpp cannot load the model, and ModelFileError.
    """
    with GGUFFile(model) as file:
        config = with_recipe(file, config or Config())
    train = dataset.examples["train"]
    return Plan(
        f"{dataset.source}: ",
        _shape(dataset, model, config),
        rows=len(train),
        epochs=float(config.epochs),
        dev_rows=len(dataset.examples["dev"]),
        validations=1 + math.ceil(float(config.epochs) * config.evals_per_epoch),
    )


def read_input(path: Path, rating_mapping: Any = None, topics: str = "") -> Dataset:
    """Load a dataset as a run would. Raises DatasetError."""
    return load_dataset(path, rating_mapping, topics, Config())


def with_throughput(capability: Capability, shape: RowShape = REFERENCE) -> Capability:
    """Add the cached throughput, or measure it now (takes seconds and imports torch).

    A model that cannot be tuned is returned unchanged; if the measurement fails, a note says why.
    """
    if capability.estimate is None or capability.path is None:
        return capability
    try:
        rate = training_speed(capability.path, shape, Config())
        with GGUFFile(capability.path) as file:
            return replace(capability, estimate=estimate(file, shape, rate))
    except (ExpertuneError, RuntimeError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        return replace(capability, notes=(*capability.notes, f"its speed could not be measured ({line})"))


def with_cached_throughput(capability: Capability, shape: RowShape = REFERENCE) -> Capability:
    """Add the throughput if it is cached."""
    if capability.path is None or cached_speed(TrainingThroughput, capability.path, shape, Config()) is None:
        return capability
    return with_throughput(capability, shape)


def training_speed(path: Path, shape: RowShape, config: Config) -> TrainingThroughput:
    """The cached throughput, or measure it now (takes seconds and imports torch). Raises as `probe`."""
    rate = cached_speed(TrainingThroughput, path, shape, config)
    if rate is None:
        from .throughput import probe

        rate = probe(path, shape, config)
        cache_speed(path, shape, config, rate)
    return rate


def blocks_of(path: Path, config: Config) -> dict[str, int]:
    """Number of blocks of the model, and of those with an adapter with which its training speed is measured."""
    with GGUFFile(path) as file:
        blocks, layers = len(read_config(file).layers), with_recipe(file, config).layers
    return {"blocks": blocks, "reference_layers": blocks if layers == "all" else min(int(layers), blocks)}


def _shape(dataset: Dataset, model: Path, config: Config) -> RowShape:
    from ..engine.llama_cpp.engine import LlamaCppEngine
    from ..train.encode import encode

    train = dataset.examples["train"]
    some: list[Example] = [*train[:: max(1, len(train) // SAMPLE)], max(train, key=_characters)]
    with LlamaCppEngine(model, context=config.max_tokens) as engine:
        return shape_of(encode(engine, some, dataset.scale))


def _characters(example: Example) -> int:
    return len(example.target) + sum(len(message["content"]) for message in example.messages)


def shape_of(rows: Sequence[Row]) -> RowShape:
    """Shape of the rows; lengths are rounded, so that a few more rows do not require a new measurement."""
    from ..train.batches import shared_beginning

    prompt, answer = (
        sum(map(len, each)) / len(rows) for each in ([row.prompt for row in rows], [row.answer for row in rows])
    )
    shared = shared_beginning(rows)
    return RowShape(
        prompt=max(_rounded(prompt), shared + 1),
        answer=max(1, round(answer)),
        longest=_rounded(max(row.length for row in rows)),
        shared=shared,
    )


def _rounded(tokens: float) -> int:
    return ROUND * max(1, round(tokens / ROUND))
