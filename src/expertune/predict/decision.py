"""Rate records with a decision model: one prefill each, by the question and the template of the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence

from ..engine.decision import ROUTE, Decision, Question
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..errors import EngineError
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from .score import Pass, Prediction, Rated, Scorer, in_parallel


class DecisionScorer(Scorer):
    """Scores by the decision interface."""

    def __init__(self, engine: LlamaCppEngine, question: Question) -> None:
        self.name, self.slots = engine.name, engine.slots
        self._engine, self._question = engine, question

    def render(self, record: str) -> str:
        """The question as it is asked: the template in the file makes the prompt of it."""
        return json.dumps(self._question.request(record), ensure_ascii=False)

    def score(self, record: str) -> Prediction:
        return Prediction(self._engine.decide(record, self._question).probabilities)

    def notes(self) -> tuple[str, ...]:
        return (asked(self._engine.model.name),)

    def describe(self) -> Mapping[str, object]:
        return {**self._engine.describe(), "asked_by": ROUTE}


def asked(name: str) -> str:
    """Describe in one line how a decision model was asked."""
    return f"{name} is a decision model: asked by its own template ({ROUTE} of the embedded llama.cpp)"


def decision_pass(
    engine: LlamaCppEngine,
    question: Question,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    on_row: Callable[[int, int], None] | None = None,
) -> Pass:
    """All records once through a decision model, timed, as `score.rate_pass` does for answers in words.

    Raises EngineError, which names the record.
    """

    def decide(example: Example) -> Decision:
        try:
            return engine.decide(example.record, question)
        except EngineError as error:
            raise EngineError(f"row {example.id}: {error}") from None

    start = time.perf_counter()
    found = in_parallel(decide, examples, engine.slots, on_row)
    seconds = time.perf_counter() - start
    rated = [Rated.of(example.id, each.probabilities, scale) for example, each in zip(examples, found, strict=True)]
    return Pass.of(rated, seconds, sum(each.prompt_tokens for each in found))
