"""Sum the log-probabilities of the tokens that distinguish a set of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import EngineError

Path = tuple[int, ...]  # tokens after the beginning that all answers share
LogProbs = Mapping[int, float]  # token → natural-log probability
Walk = Callable[[Path, int], Sequence[tuple[int, LogProbs]]]
Force = Callable[[Path, Sequence[int]], LogProbs]

ROWS_WITHOUT_WALKING = 64  # rows after which a model that left the answers' tokens may walk again


@dataclass(frozen=True)
class TailScores:
    """Log-probability of each tail, in nats, and how many questions to the model it took."""

    log_probs: tuple[float, ...]
    questions: int


@dataclass(frozen=True)
class Walking:
    """The rows still to be scored token by token, because the model's own continuation left the answers' tokens."""

    rows_without: int = 0

    @property
    def allowed(self) -> bool:
        return self.rows_without <= 0

    def after_row(self, tails: Sequence[Sequence[int]], questions: int) -> Walking:
        """The state for the next row. Walking saves nothing if it takes a question for each place all the same."""
        if questions == 1:
            return self  # no way takes fewer
        if not self.allowed:
            return Walking(self.rows_without - 1)
        places = {tuple(tail[:i]) for tail in tails for i in range(len(tail))}
        return Walking(ROWS_WITHOUT_WALKING - 1) if questions >= len(places) else self


def distinguishing(answers: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The tokens that all answers begin with, and for each answer those that tell it from the others.

    The end that they share is cut but for its first token: it closes a label that another one begins with
    ("Match" and "Match later"); more of it is kept where labels end alike too ("Match", "Match Match", "No Match").
    Raises EngineError where one answer is the beginning of another and nothing closes it.
    """
    distinct = {tuple(answer) for answer in answers}
    if len(distinct) < 2:
        return list(answers[0]) if answers else [], [[] for _ in answers]
    begin = common_prefix(distinct)
    rests = {answer[begin:] for answer in distinct}
    for cut in range(max(common_prefix({rest[::-1] for rest in rests}) - 1, 0), -1, -1):
        tails = [tuple(answer[begin : len(answer) - cut]) for answer in answers]
        if not any(a != b and b[: len(a)] == a for a in set(tails) for b in set(tails)):
            return list(answers[0][:begin]), [list(tail) for tail in tails]
    raise EngineError("one answer is the beginning of another: give the answers a common ending, such as a quote")


def common_prefix(sequences: Iterable[Sequence[int]]) -> int:
    """Number of leading tokens that all have in common."""
    distinct = set(map(tuple, sequences))
    first, last = min(distinct), max(distinct)  # the order is lexicographic: these two differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def sum_log_probs(tails: Sequence[Sequence[int]], walk: Walk | None, force: Force) -> TailScores:
    """Sum each tail's log-probabilities with few questions: a model trained on the answers walks along them itself.

    `walk(path, room)` lets the model continue after `path` by at most `room` tokens, and gives for each place the
    token that it took and the likeliest ones' log-probabilities; None asks for each place by itself. `force(path,
    tokens)` gives the log-probabilities after `path` of `tokens` at least. Answers that differ from a place on are
    compared on one and the same forward pass.
    """
    known: dict[Path, LogProbs] = {}
    questions = 0
    for tail in map(tuple, tails):
        for at, token in enumerate(tail):
            path = tail[:at]
            if path not in known and walk is not None:
                known = {**_places_along(path, walk(path, _room(tails, path))), **known}
                questions += 1
            if token not in known.get(path, {}):  # also where the model would rather end its turn here
                known[path] = {**force(path, _wanted(tails, path, known.get(path, {}))), **known.get(path, {})}
                questions += 1
    return TailScores(tuple(sum_along(known, tail) for tail in tails), questions)


def _places_along(path: Path, continuation: Sequence[tuple[int, LogProbs]]) -> dict[Path, LogProbs]:
    """The log-probabilities in each place of a continuation of `path`, by the tokens before it."""
    tokens = tuple(token for token, _ in continuation)
    return {(*path, *tokens[:i]): log_probs for i, (_, log_probs) in enumerate(continuation)}


def sum_along(known: Mapping[Path, LogProbs], tail: Sequence[int]) -> float:
    return sum(known[tuple(tail[:i])][token] for i, token in enumerate(tail))


def _wanted(tails: Sequence[Sequence[int]], path: Path, known: LogProbs) -> list[int]:
    """The tokens with which tails go on after `path`, but for those that are known."""
    through = [tail[len(path)] for tail in tails if len(tail) > len(path) and tuple(tail[: len(path)]) == path]
    return [token for token in dict.fromkeys(through) if token not in known]


def _room(tails: Sequence[Sequence[int]], path: Path) -> int:
    """As far as every tail through `path` reaches: a model that keeps to the answers says no token for nothing."""
    return min(len(tail) - len(path) for tail in tails if tuple(tail[: len(path)]) == path)
