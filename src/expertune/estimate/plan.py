"""Estimate the time of a training and of a whole run from a sample of the rows and measured speeds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ExpertuneError
from ..gguf.read import GGUFFile
from ..model.arch import read_config
from ..model.memory import RowShape
from ..optional import require_torch
from ..ratings.dataset import Dataset, load_dataset
from ..ratings.examples import chat_messages
from ..ratings.scale import DEFAULT_MAPPING, RatingScale, make_scale
from ..ratings.schema import BySplit, Example
from ..train.recipe import with_recipe
from .capability import REFERENCE, Capability, TrainingThroughput, estimate
from .job import JobPlan, RatingSpeed, Speeds, Work, plan_job
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

    `name` is the prefix of the description. `work` is that of the whole run and `rating` the speed of llama.cpp, if
    it was measured.
    """

    name: str
    shape: RowShape
    rows: int
    epochs: float
    dev_rows: int = 0
    validations: int = 0
    work: Work | None = None
    rating: RatingSpeed | None = None

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


REFERENCE_COUNTS = BySplit(train=700, dev=100, test=200)


def planned(dataset: Dataset, model: Path, search_records: int = 0) -> Plan:
    """Plan for a dataset; the model's own tokenizer counts the tokens of a sample spread over the rows.

    `search_records` is the number of records that the search for a model set rates.
    Raises EngineError if llama.cpp cannot load the model, ModelFileError, and UsageError without torch.
    """
    require_torch("the time of a training")
    with GGUFFile(model) as file:
        config = with_recipe(file, Config())
    shape, rating, read_seconds = _sampled(dataset, model, config)
    counts, blocks = dataset.counts, blocks_of(model, Config())
    return Plan(
        f"{dataset.source}: ",
        shape,
        rows=counts.train,
        epochs=float(config.epochs),
        dev_rows=counts.dev,
        validations=1 + math.ceil(float(config.epochs) * config.evals_per_epoch),
        work=Work(shape, **counts.parts(), **blocks, read_seconds=read_seconds, search_records=search_records),
        rating=rating,
    )


def reference_plan(model: Path, search_records: int = 0) -> Plan:
    """The reference plan, with the work of a whole run on 1,000 records of its shape. Raises EngineError."""
    rating = cached_speed(RatingSpeed, model, REFERENCE, Config())
    if rating is None:
        from ..engine.llama_cpp.engine import LlamaCppEngine

        scale, start = make_scale(DEFAULT_MAPPING), time.perf_counter()
        with LlamaCppEngine(model, context=2 * REFERENCE.row) as engine:
            rating = measure_rating(engine, _reference_examples(scale), scale, time.perf_counter() - start)
        cache_speed(model, REFERENCE, Config(), rating)
    work = Work(REFERENCE, **REFERENCE_COUNTS.parts(), **blocks_of(model, Config()), search_records=search_records)
    return replace(REFERENCE_PLAN, work=work, rating=rating)


def whole_run(plan: Plan, capability: Capability) -> JobPlan | None:
    """The stages of a whole run with the default settings; None where a speed has not been measured."""
    rate = capability.estimate.rate if capability.estimate is not None else None
    if plan.work is None or plan.rating is None or rate is None or capability.path is None:
        return None
    with GGUFFile(capability.path) as file:
        config = with_recipe(file, Config(), plan.work.train)
    speeds = Speeds(rate, plan.rating, measure_conversion(capability.path, config.target_modules))
    return plan_job(plan.work, speeds, config)


def read_input(
    path: Path, rating_mapping: Any = None, topics: str = "", column: Sequence[str] = (), sheet: str = ""
) -> Dataset:
    """Load a dataset as a run would. Raises DatasetError."""
    return load_dataset(path, rating_mapping, topics, Config(column=tuple(column), sheet=sheet or None))


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


def with_cached_throughput(capability: Capability) -> Capability:
    if capability.path is None or cached_speed(TrainingThroughput, capability.path, REFERENCE, Config()) is None:
        return capability
    return with_throughput(capability)


def training_speed(path: Path, shape: RowShape, config: Config, *, fresh: bool = False) -> TrainingThroughput:
    """The cached throughput, or a new measurement (takes seconds and imports torch), with `fresh` always.

    Raises as `probe`, and UsageError if it has to be measured and torch is not installed.
    """
    rate = None if fresh else cached_speed(TrainingThroughput, path, shape, config)
    if rate is None:
        require_torch("measuring the training's speed")
        from .throughput import probe

        rate = probe(path, shape, config)
        cache_speed(path, shape, config, rate)
    return rate


def blocks_of(path: Path, config: Config) -> dict[str, int]:
    """Number of blocks of the model, and of those with an adapter with which its training speed is measured."""
    with GGUFFile(path) as file:
        blocks, layers = len(read_config(file).layers), with_recipe(file, config).layers
    return {"blocks": blocks, "reference_layers": blocks if layers == "all" else min(int(layers), blocks)}


def _sampled(dataset: Dataset, model: Path, config: Config) -> tuple[RowShape, RatingSpeed, float]:
    """Shape of the training rows, speed of rating, and seconds to open the model and tokenize all records."""
    from ..engine.llama_cpp.engine import LlamaCppEngine
    from ..train.encode import encode

    train = dataset.examples.train
    some: list[Example] = [*train[:: max(1, len(train) // SAMPLE)], max(train, key=_characters)]
    start = time.perf_counter()
    with LlamaCppEngine(model, context=config.max_tokens) as engine:
        opened = time.perf_counter()
        rows = encode(engine, some, dataset.scale)
        encoding = (time.perf_counter() - opened) / len(some) * sum(dataset.counts.parts().values())
        rating = measure_rating(engine, train, dataset.scale, opened - start)
    return shape_of(rows), rating, opened - start + encoding


def _reference_examples(scale: RatingScale) -> list[Example]:
    """Examples of about the reference's length; each begins differently, as records do."""
    text = "Visit {0}: a patient of {1} years with a cough and fever for {2} days, breathing {1} times a minute. "
    prompts = ["".join(text.format(11 * row + part, 20 + row + part, part) for part in range(6)) for row in range(8)]
    return [
        Example(str(row), "train", chat_messages(prompt, scale, ""), "", scale.labels[0], scale.values[0])
        for row, prompt in enumerate(prompts)
    ]


def _characters(example: Example) -> int:
    return len(example.target) + example.prompt_length


def shape_of(rows: Sequence[Row], lead: int = 0) -> RowShape:
    """Shape of the rows with the `lead` of a code branch; lengths are rounded, so that a few more rows do not require a
    new measurement."""
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
        lead=lead,
    )


def _rounded(tokens: float) -> int:
    return ROUND * max(1, round(tokens / ROUND))
