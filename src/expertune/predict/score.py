"""Predict the labels of records: a probability for each label and, where wanted, the model's free answer."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore
from typing import Literal, Protocol, TypeVar

from ..engine.base import Engine, Message
from ..errors import EngineError
from ..ratings.codes import WORDS, LabelScoring
from ..ratings.scale import RatingScale, answer_opening, parse_answer
from ..ratings.schema import Example

T = TypeVar("T")
Messages = Callable[[str], Sequence[Message]]  # a record's prompt → the chat messages that ask for its label
FIRST_ANSWERS, LONGEST_ANSWER = 5, 160  # free answers that are asked for first; tokens of one at most
LEAST = 1e-45  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Prediction:
    """A scorer's result for one record.

    `probabilities` are in the scale's order and sum to 1. `votes` has the label of each member by name, where several
    were asked. `exact` is False where the server did not show the labels' own tokens: they are then approximate.
    `chosen` is the index of the label that a rater with a rule of its own writes, None for the likeliest.
    """

    probabilities: tuple[float, ...]
    votes: Mapping[str, str] = field(default_factory=dict)
    exact: bool = True
    chosen: int | None = None

    @property
    def label(self) -> int:
        """Index of the label to write."""
        return likeliest(self.probabilities) if self.chosen is None else self.chosen


class Scorer(Protocol):
    """Predicts the label of a record from its prompt; used by several threads at once. Its methods raise EngineError.

    `slots` records are worth sending at once; `explains` is True if it can give a reason in words.
    """

    name: str
    slots: int
    explains: bool = False

    def render(self, record: str) -> str:
        """The text that is scored for a record: templates are part of what decides a prediction."""
        ...

    def score(self, record: str) -> Prediction: ...

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        """Continuation of an answer that gives `label`, up to the beginning of the rationale."""
        raise EngineError(f"{self.name} gives no reasons; leave out --rationale")

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the records were scored, one line each."""
        return ()

    def describe(self) -> Mapping[str, object]:
        """The engine that served the model, for the record of a session."""
        ...


class LanguageModelScorer:
    """A served language model; `messages` turns a record into what it is asked."""

    explains = True

    def __init__(self, engine: Engine, messages: Messages, scale: RatingScale, scoring: LabelScoring = WORDS) -> None:
        self.name, self.slots = engine.name, engine.slots
        self._engine, self._messages, self._scale, self._scoring = engine, messages, scale, scoring
        # a record that is scored twice keeps its slot, which holds its prompt
        self._turn = BoundedSemaphore(engine.slots) if scoring.by == "both" else contextlib.nullcontext()

    def render(self, record: str) -> str:
        return self._engine.render(self._messages(record))

    def score(self, record: str) -> Prediction:
        prompt = self.render(record)
        with self._turn:
            return score_labels(self._engine, prompt, self._scale, self._scoring)

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        return self._engine.generate(self.render(record) + answer_opening(label), max_tokens=max_tokens).text

    def notes(self) -> tuple[str, ...]:
        return tuple(self._engine.notes)

    def describe(self) -> Mapping[str, object]:
        return self._engine.describe()


class VotingScorer:
    """The members of a model set: `rater` gives the probabilities, each of the others only its vote."""

    name = "model set"

    def __init__(self, rater: str, members: Mapping[str, Scorer], labels: Sequence[str], note: str) -> None:
        self._rater, self._members, self._labels, self._note = rater, members, labels, note
        self.slots = max(member.slots for member in members.values())
        self._words = next((member for member in members.values() if member.explains), members[rater])
        self.explains = self._words.explains

    def render(self, record: str) -> str:
        return self._members[self._rater].render(record)

    def score(self, record: str) -> Prediction:
        found = {name: member.score(record) for name, member in self._members.items()}
        votes = {name: self._labels[each.label] for name, each in found.items()}
        return replace(found[self._rater], votes=votes)

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        """By the first member that has words for it."""
        return self._words.explain(record, label, max_tokens=max_tokens)

    def notes(self) -> tuple[str, ...]:
        return (self._note, *(f"{name}: {note}" for name, each in self._members.items() for note in each.notes()))

    def describe(self) -> Mapping[str, object]:
        members = {name: member.describe() for name, member in self._members.items()}
        return {"engine": self.name, "rater": self._rater, "members": members}


def score_labels(
    engine: Engine, prompt: str, scale: RatingScale, scoring: LabelScoring = WORDS, *, row: str = ""
) -> Prediction:
    """The labels' probabilities after a rendered prompt. Raises EngineError, which names `row` where it is given."""
    ways = [engine.score(prompt, answers) for answers in scoring.answers(scale)]
    for found in (scores.log_probs for scores in ways):
        if len(found) != len(scale.labels) or any(map(math.isnan, found)) or max(found) == -math.inf:
            where = f"row {row}: " if row else ""
            raise EngineError(f"{where}{engine.name} gave no probability for the labels; check the model file")
    return Prediction(mean_shares([softmax(scores.log_probs) for scores in ways]), exact=all(s.exact for s in ways))


def mean_shares(ways: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of the log-probabilities of the labels by one or more ways, as shares that sum to 1."""
    if len(ways) == 1:
        return tuple(ways[0])
    return softmax(
        [sum(math.log(max(share, LEAST)) for share in shares) / len(ways) for shares in zip(*ways, strict=True)]
    )


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    """Natural-log scores as shares that sum to 1; at least one score must be finite.

    Summed exactly, in plain floats: a quarter of NumPy's results differ from these in the last digit.
    """
    peak = max(scores)
    weights = [math.exp(score - peak) for score in scores]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def likeliest(probabilities: Sequence[float]) -> int:
    """Index of the largest probability, the first of equals."""
    return max(range(len(probabilities)), key=lambda k: probabilities[k])


@dataclass(frozen=True)
class Rated:
    """A record with its predicted label.

    `label` and `value` are the likeliest ones by `probabilities` (in the scale's order, summing to 1), or those that
    the rater's own rule chose.
    `answer` is the free answer, where one was asked for; an `answer_state` of "unparsable" has no `answer_value`.
    `exact` is as in Prediction.
    """

    id: str
    label: str
    value: int
    probabilities: tuple[float, ...]
    answer: str | None = None
    answer_state: Literal["rated", "unparsable"] | None = None
    answer_value: int | None = None
    exact: bool = True

    @classmethod
    def of(cls, id: str, probabilities: Sequence[float], scale: RatingScale, *, exact: bool = True) -> Rated:
        """The record `id` with the likeliest label."""
        best = likeliest(probabilities)
        return cls(id, scale.labels[best], scale.values[best], tuple(map(float, probabilities)), exact=exact)


@dataclass(frozen=True)
class Pass:
    """All records once through a model, timed: wall time in `seconds`, and the tokens of all whole prompts."""

    rated: tuple[Rated, ...]
    seconds: float
    rows_per_second: float
    prompt_tokens: int

    @classmethod
    def of(cls, rated: Sequence[Rated], seconds: float, prompt_tokens: int) -> Pass:
        return cls(tuple(rated), seconds, len(rated) / seconds if seconds > 0 else 0.0, prompt_tokens)


def sample_of(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """A random sample of at most `count` examples, in their order."""
    chosen = random.Random(seed).sample(range(len(examples)), min(count, len(examples)))
    return [examples[at] for at in sorted(chosen)]


def rate_examples(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    answered: Collection[str] = (),
    scoring: LabelScoring = WORDS,
    max_tokens: int = LONGEST_ANSWER,
    on_row: Callable[[int, int], None] | None = None,
) -> list[Rated]:
    """Predict the label of every example, in the order given, `engine.slots` at a time.

    Each record whose id is in `answered` also gets a greedy answer of at most `max_tokens` without a grammar: what the
    model writes when nothing constrains it. A model that ends none of the first FIRST_ANSWERS is asked for no more.
    `on_row(done, total)` is called in the caller's thread.
    Raises EngineError; after an error or Ctrl-C no further row is begun.
    """
    found: dict[int, Rated] = {}

    def rate(places: Sequence[int], ids: Collection[str]) -> int:
        """Rate the examples at these places; the number of answers that the model ended."""

        def one(example: Example) -> tuple[Rated, bool]:
            return _rate(engine, example, scale, scoring, max_tokens if example.id in ids else 0)

        def show(at: int, _: int) -> None:
            if on_row is not None:
                on_row(done + at, len(examples))

        done = len(found)
        rated = in_parallel(one, [examples[at] for at in places], engine.slots, show)
        found.update((at, each) for at, (each, _) in zip(places, rated, strict=True))
        return sum(ends for _, ends in rated)

    first = [at for at, example in enumerate(examples) if example.id in answered][:FIRST_ANSWERS]
    ended = rate(first, answered)
    rate([at for at in range(len(examples)) if at not in found], answered if ended else ())
    return [found[at] for at in range(len(examples))]


def in_parallel(
    work: Callable[[Example], T],
    examples: Sequence[Example],
    slots: int,
    on_row: Callable[[int, int], object] | None = None,
) -> list[T]:
    """`work` for every example, in the order given, `slots` at a time; `on_row` and errors as in `rate_examples`."""
    pool = ThreadPoolExecutor(max_workers=max(1, slots), thread_name_prefix="rate")
    try:
        futures = [pool.submit(work, example) for example in examples]
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
    answered: Collection[str] = (),
    scoring: LabelScoring = WORDS,
    on_row: Callable[[int, int], None] | None = None,
) -> Pass:
    """`rate_examples`, timed; the prompts' tokens are counted after the clock has stopped."""
    start = time.perf_counter()
    rated = rate_examples(engine, examples, scale, answered=answered, scoring=scoring, on_row=on_row)
    seconds = time.perf_counter() - start
    tokens = sum(engine.count_tokens(engine.render(example.messages)) for example in examples)
    return Pass.of(rated, seconds, tokens)


def unfinished_notes(tuned: Pass) -> tuple[str, ...]:
    """A note if the tuned model was asked for no more free answers (see `rate_examples`)."""
    answers = sum(each.answer is not None for each in tuned.rated)
    if answers != FIRST_ANSWERS or answers == len(tuned.rated):
        return ()
    return (
        f"the tuned model ended none of its first {answers} free-text answers within {LONGEST_ANSWER} tokens; "
        "it was asked for no more",
    )


def _rate(
    engine: Engine, example: Example, scale: RatingScale, scoring: LabelScoring, answer_tokens: int
) -> tuple[Rated, bool]:
    """The rated record, and True if it has a free answer that the model ended."""
    prompt = engine.render(example.messages)
    found = score_labels(engine, prompt, scale, scoring, row=example.id)
    rated = Rated.of(example.id, found.probabilities, scale, exact=found.exact)
    if not answer_tokens:
        return rated, False
    answer = engine.generate(prompt, max_tokens=answer_tokens)
    state, value, _ = parse_answer(answer.text, scale)
    state = "rated" if state == "rated" else "unparsable"
    return replace(rated, answer=answer.text, answer_state=state, answer_value=value), answer.finished
