"""How long a model trains: its measured rate times the tokens of the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ExpertuneError
from ..gguf.read import GGUFFile
from ..model.memory import RowShape
from ..ratings.dataset import Dataset, load_dataset
from ..ratings.schema import Example
from ..train.recipe import with_recipe
from .capability import REFERENCE, Capability, TrainingThroughput, estimate
from .throughput_cache import cache_throughput, cached_throughput

if TYPE_CHECKING:
    from ..train.encode import Row

SAMPLE = 100  # rows that are tokenised to know the others' length
ROUND = 16  # tokens
# The largest error of bench/estimate.py on its three models; bench/README.md has the table
MEMORY_ERROR, RATE_ERROR = 0.04, 0.15


@dataclass(frozen=True)
class Plan:
    """What is to be trained on: rows of a shape, the rows of a look and the looks of all. `name` is put before it in
    words."""

    name: str
    shape: RowShape
    rows: int
    epochs: float
    dev_rows: int = 0
    looks: int = 0

    def words(self, tokens: str) -> str:
        """`tokens` is the length of a row."""
        times = "once" if self.epochs == 1 else f"{self.epochs:g} times"
        return f"{self.name}{self.rows:,} rows of about {tokens} tokens, {times}"

    def seconds(self, rate: TrainingThroughput) -> float:
        """Of training to the last epoch; it may stop earlier."""
        tokens = self.epochs * self.rows * self.shape.row
        dev_tokens = self.looks * self.dev_rows * self.shape.row
        return tokens / rate.tokens_per_second + dev_tokens / rate.look_tokens_per_second


REFERENCE_PLAN = Plan("", REFERENCE, rows=1000, epochs=1.0)


def planned(prepared: Dataset, model: Path, config: Config | None = None) -> Plan:
    """The plan for a rating file, its tokens counted by the model's own tokenizer on some rows spread over the file.

    Raises EngineError where llama.cpp cannot load the model, ModelFileError.
    """
    with GGUFFile(model) as file:
        config = with_recipe(file, config or Config())
    train = prepared.examples["train"]
    return Plan(
        f"{prepared.source}: ",
        _shape(prepared, model, config),
        rows=len(train),
        epochs=float(config.epochs),
        dev_rows=len(prepared.examples["dev"]),
        looks=1 + math.ceil(float(config.epochs) * config.evals_per_epoch),
    )


def read_input(path: Path, rating_mapping: Any = None, topics: str = "") -> Dataset:
    """The rating file as a run would take it. Raises DatasetError."""
    return load_dataset(path, rating_mapping, topics, Config())


def with_throughput(found: Capability, shape: RowShape = REFERENCE) -> Capability:
    """The same with the rate that was kept, else with one measured now (seconds; torch is loaded).

    A model that cannot be tuned stays as it is; one whose rate cannot be measured has a note that says why.
    """
    if found.estimate is None or found.path is None:
        return found
    try:
        rate = cached_throughput(found.path, shape) or _measured(found.path, shape)
        with GGUFFile(found.path) as file:
            return replace(found, estimate=estimate(file, shape, rate))
    except (ExpertuneError, RuntimeError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        return replace(found, notes=(*found.notes, f"its speed could not be measured ({line})"))


def with_cached_throughput(found: Capability, shape: RowShape = REFERENCE) -> Capability:
    """The same with the rate where one was kept."""
    if found.path is None or cached_throughput(found.path, shape) is None:
        return found
    return with_throughput(found, shape)


def _measured(path: Path, shape: RowShape) -> TrainingThroughput:
    from .throughput import probe

    rate = probe(path, shape)
    cache_throughput(path, shape, rate)
    return rate


def _shape(prepared: Dataset, model: Path, config: Config) -> RowShape:
    from ..engine.llama_cpp.engine import LlamaCppEngine
    from ..train.encode import encode, token_weights

    train = prepared.examples["train"]
    some: list[Example] = [*train[:: max(1, len(train) // SAMPLE)], max(train, key=_characters)]
    with LlamaCppEngine(model, context=config.max_tokens) as engine:
        return shape_of(encode(engine, some, prepared.scale, token_weights(config)))


def _characters(example: Example) -> int:
    return len(example.target) + sum(len(message["content"]) for message in example.messages)


def shape_of(rows: Sequence[Row]) -> RowShape:
    """What the trainer will meet; lengths rounded, so that a few more rows do not ask for another measurement."""
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
