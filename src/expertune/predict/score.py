"""Rate rows with a served model: a probability for each label, and, where wanted, the answer it gives freely."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Literal

from ..engine.base import Engine
from ..errors import EngineError
from ..ratings.scale import RatingScale, answer_opening, parse_answer
from ..ratings.schema import Example


@dataclass(frozen=True)
class Rated:
    """A row as a model rates it.

    `label` and `value` are the likeliest ones by `probabilities` (in the scale's order, summing to 1).
    `answer` is the free answer, where one was asked for; an `answer_state` of "unparsable" has no `answer_value`.
    """

    id: str
    label: str
    value: int
    probabilities: tuple[float, ...]
    answer: str | None = None
    answer_state: Literal["rated", "unparsable"] | None = None
    answer_value: int | None = None
    exact: bool = True  # as engine.base.Scores


@dataclass(frozen=True)
class Pass:
    """All rows once through a model. `seconds` is wall time; `prompt_tokens` counts every row's whole prompt."""

    rated: tuple[Rated, ...]
    seconds: float
    rows_per_second: float
    prompt_tokens: int


def rate_examples(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    generate: bool = False,
    max_tokens: int = 160,
    on_row: Callable[[int, int], None] | None = None,
) -> list[Rated]:
    """Every example rated, in the order given, `engine.slots` at a time.

    With `generate` each row also gets a greedy answer of at most `max_tokens` without a grammar: what the model
    writes when nothing holds it to the form. `on_row(done, total)` is called in the caller's thread.
    Raises EngineError; after an error or Ctrl-C no further row is begun.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, engine.slots), thread_name_prefix="rate")
    try:
        futures = [pool.submit(_rate, engine, example, scale, generate, max_tokens) for example in examples]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if on_row is not None:
                on_row(done, len(futures))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def rate_pass(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    generate: bool = False,
    max_tokens: int = 160,
    on_row: Callable[[int, int], None] | None = None,
) -> Pass:
    """`rate_examples`, timed; the prompts' tokens are counted after the clock has stopped."""
    start = time.perf_counter()
    rated = rate_examples(engine, examples, scale, generate=generate, max_tokens=max_tokens, on_row=on_row)
    seconds = time.perf_counter() - start
    tokens = sum(engine.count_tokens(engine.render(example.messages)) for example in examples)
    return Pass(tuple(rated), seconds, len(rated) / seconds if seconds > 0 else 0.0, tokens)


def _rate(engine: Engine, example: Example, scale: RatingScale, generate: bool, max_tokens: int) -> Rated:
    prompt = engine.render(example.messages)
    probabilities, exact = _probabilities(engine, prompt, scale, example.id)
    best = probabilities.index(max(probabilities))
    rated = Rated(example.id, scale.labels[best], scale.values[best], probabilities, exact=exact)
    if not generate:
        return rated
    answer = engine.generate(prompt, max_tokens=max_tokens).text
    state, value, _ = parse_answer(answer, scale)
    return replace(rated, answer=answer, answer_state="rated" if state == "rated" else "unparsable", answer_value=value)


def label_probabilities(engine: Engine, prompt: str, scale: RatingScale, row: str) -> tuple[float, ...]:
    """Of each label after a rendered prompt, in the scale's order. Raises EngineError, which names `row`."""
    return _probabilities(engine, prompt, scale, row)[0]


def _probabilities(engine: Engine, prompt: str, scale: RatingScale, row: str) -> tuple[tuple[float, ...], bool]:
    found = engine.score(prompt, [answer_opening(label) for label in scale.labels])
    scores = found.log_probs
    if len(scores) != len(scale.labels) or any(map(math.isnan, scores)) or max(scores) == -math.inf:
        raise EngineError(f"row {row}: {engine.name} gave no probability for the labels; check the model file")
    return softmax(scores), found.exact


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    """Natural-log scores as shares that sum to 1; at least one score must be finite."""
    peak = max(scores)
    weights = [math.exp(score - peak) for score in scores]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
