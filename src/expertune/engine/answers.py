"""Which tokens of a set of answers tell them apart, and what a model gives each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import EngineError

NextLogProbs = Callable[[Sequence[int], int], Mapping[int, float]]


def distinguishing(answers: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The tokens that all answers begin with, and for each answer those that tell it from the others.

    The end that they share is cut but for its first token: it closes a label that another one begins with
    ("Match" and "Match later"). Raises EngineError where one answer is the beginning of another and nothing closes it.
    """
    distinct = {tuple(answer) for answer in answers}
    if len(distinct) < 2:
        return list(answers[0]) if answers else [], [[] for _ in answers]
    begin = _alike(distinct)
    rests = {answer[begin:] for answer in distinct}
    cut = max(_alike({rest[::-1] for rest in rests}) - 1, 0)
    tails = [tuple(answer[begin : len(answer) - cut]) for answer in answers]
    if any(a != b and b[: len(a)] == a for a in set(tails) for b in set(tails)):
        raise EngineError("one answer is the beginning of another: give the answers a common ending, such as a quote")
    return list(answers[0][:begin]), [list(tail) for tail in tails]


def _alike(sequences: set[tuple[int, ...]]) -> int:
    """How many leading tokens all have in common."""
    first, last = min(sequences), max(sequences)  # the order is lexicographic: these two differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def sum_log_probs(tails: Sequence[Sequence[int]], next_log_probs: NextLogProbs) -> list[float]:
    """Log-probability of each tail, in nats.

    `next_log_probs(tokens, wanted)` asks the model once: the log-probabilities after `tokens` of `wanted` and of as
    many other tokens as come for free. So answers that part at a token are compared on one and the same forward pass.
    """
    known: dict[tuple[int, ...], dict[int, float]] = {}
    for tail in tails:
        for i, token in enumerate(tail):
            node = known.setdefault(tuple(tail[:i]), {})
            if token not in node:
                node.update({**next_log_probs(tail[:i], token), **node})
    return [sum(known[tuple(tail[:i])][token] for i, token in enumerate(tail)) for tail in tails]
