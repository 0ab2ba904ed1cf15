"""Which tokens of a set of answers tell them apart, and what a model gives each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import EngineError

Look = Callable[[Sequence[int], int], Iterable[tuple[int, Mapping[int, float]]]]
Known = dict[tuple[int, ...], dict[int, float]]  # tokens after the common beginning → figures of the next one
Force = Callable[[Sequence[int], int], Mapping[int, float]]


def distinguishing(answers: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The tokens that all answers begin with, and for each answer those that tell it from the others.

    The end that they share is cut but for its first token: it closes a label that another one begins with
    ("Match" and "Match later"); more of it is kept where labels end alike too ("Match", "Match Match", "No Match").
    Raises EngineError where one answer is the beginning of another and nothing closes it.
    """
    distinct = {tuple(answer) for answer in answers}
    if len(distinct) < 2:
        return list(answers[0]) if answers else [], [[] for _ in answers]
    begin = _alike(distinct)
    rests = {answer[begin:] for answer in distinct}
    for cut in range(max(_alike({rest[::-1] for rest in rests}) - 1, 0), -1, -1):
        tails = [tuple(answer[begin : len(answer) - cut]) for answer in answers]
        if not any(a != b and b[: len(a)] == a for a in set(tails) for b in set(tails)):
            return list(answers[0][:begin]), [list(tail) for tail in tails]
    raise EngineError("one answer is the beginning of another: give the answers a common ending, such as a quote")


def _alike(sequences: set[tuple[int, ...]]) -> int:
    """How many leading tokens all have in common."""
    first, last = min(sequences), max(sequences)  # the order is lexicographic: these two differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def sum_log_probs(tails: Sequence[Sequence[int]], look: Look, force: Force, known: Known | None = None) -> list[float]:
    """Log-probability of each tail, in nats, with few requests: a model that was taught them walks along them itself.

    `look(path, room)` asks the model to go on after `path` by at most `room` tokens, and tells for each place the token
    that it took and the likeliest ones' log-probabilities. `force(path, wanted)` tells those of `wanted` at least.
    Answers that part at a token are compared on one and the same forward pass. `known` takes up the figures of each
    place, for a later call over the same answers.
    """
    known = {} if known is None else known

    def figures(path: tuple[int, ...], wanted: int) -> dict[int, float]:
        if path not in known:
            here = path
            for said, others in look(path, _room(tails, path)):
                known.setdefault(here, dict(others))
                here = (*here, said)
        node = known.setdefault(path, {})  # a model that would rather end here says nothing
        if wanted not in node:
            node.update({**force(path, wanted), **node})
        return node

    return [sum(figures(tuple(tail[:i]), token)[token] for i, token in enumerate(tail)) for tail in tails]


def _room(tails: Sequence[Sequence[int]], path: tuple[int, ...]) -> int:
    """As far as every tail through `path` reaches: not one token is said for nothing by a model that keeps to them."""
    return min(len(tail) - len(path) for tail in tails if tuple(tail[: len(path)]) == path)
