"""Measure the engine on a handful of records, and the conversion of a tensor, for the plan of a run. No torch here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gguf import GGMLQuantizationType as Type

from ..engine.base import Engine
from ..gguf import quants
from ..gguf.read import GGUFFile
from ..model.arch import read_config
from ..model.target_modules import adapted_names
from ..predict.score import rate_examples
from ..ratings.codes import WORDS, CodeBranch, LabelScoring
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from .job import RatingSpeed

RECORDS, SECONDS = 6, 3.0  # no further record is begun after so many seconds
TOKENS = 8  # generated to measure the time of one
T = TypeVar("T")


def measure_rating(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    open_seconds: float,
    rater: Engine | None = None,
    branch: CodeBranch | None = None,
) -> RatingSpeed:
    """Rate a few of the examples, spread over their lengths, and generate a few tokens. Raises EngineError.

    `engine` is llama.cpp, `rater` the engine that rates in the run, if that is another one. With a code branch it also
    rates the records by words and codes, the slowest way in which the tuned file may be judged.
    """
    record_seconds = _record_seconds(engine, examples, scale)
    decoder_seconds = None if rater in (None, engine) else _record_seconds(rater, examples, scale)
    in_both_ways = _record_seconds(engine, examples, scale, LabelScoring("both", branch)) if branch else 0.0
    prompt = engine.render(examples[0].messages)
    engine.generate(prompt, max_tokens=1)  # an engine may load the model for its first answer, or know the prompt
    start = time.perf_counter()
    found = engine.generate(prompt, max_tokens=TOKENS)
    generating = time.perf_counter() - start
    return RatingSpeed(
        open_seconds=open_seconds,
        record_seconds=record_seconds,
        token_seconds=generating / max(1, found.answer_tokens),
        decoder_seconds=decoder_seconds,
        code_seconds=max(0.0, in_both_ways - record_seconds),
    )


def _record_seconds(
    engine: Engine, examples: Sequence[Example], scale: RatingScale, scoring: LabelScoring = WORDS
) -> float:
    some = spread(examples, RECORDS, lambda each: each.prompt_length)
    some.sort(key=lambda each, order=tuple(some): abs(order.index(each) - len(order) // 2))  # the usual lengths first
    seconds = list[float]()
    rate_examples(engine, [some[-1]], scale, scoring=scoring)  # computes the beginning that all prompts share
    for group in [some] if engine.slots > 1 else [[each] for each in some]:
        start = time.perf_counter()
        rate_examples(engine, group, scale, scoring=scoring)
        seconds += [(time.perf_counter() - start) / len(group)] * len(group)
        if sum(seconds) > SECONDS:
            break
    return sum(seconds) / len(seconds)


def spread(items: Sequence[T], count: int, size: Callable[[T], int]) -> list[T]:
    """At most `count` items at evenly spaced quantiles of their size, the smallest first."""
    count, ordered = min(count, len(items)), sorted(items, key=size)
    return [ordered[int((at + 0.5) * len(items) / count)] for at in range(count)]


def measure_conversion(path: Path, targets: str) -> float:
    """Seconds to unpack and pack all tensors that may be changed, from one of the smallest."""
    with GGUFFile(path) as file:
        infos = [file.info(f"{name}.weight") for name in adapted_names(file, read_config(file), targets)]
        sizes = [math.prod(info.shape) for info in infos]
        smallest = min(infos, key=lambda info: math.prod(info.shape))
        kind = smallest.type if quants.can_quantize(smallest.type) else Type.Q8_0

        def convert() -> None:
            quants.quantize(file.tensor(smallest.name).reshape(-1, smallest.shape[-1]), kind)

        convert()  # loads the library
        start = time.perf_counter()
        convert()
        return (time.perf_counter() - start) * sum(sizes) / math.prod(smallest.shape)
