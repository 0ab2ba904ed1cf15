"""Search the best prompt by successive halving over validation rows (Jamieson and Talwalkar 2016), within a time.

Each round rates more rows with fewer candidates. What was best so far is there at any moment; when the time is over the
search just ends. Nothing here knows what a candidate is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..errors import EngineError

FEWEST_ROWS = 12  # in the first round: with fewer, chance alone decides

C = TypeVar("C")
Shares = tuple[float, ...]
Quality = tuple[float, ...]  # larger is better, compared in order


@dataclass
class PromptTrial(Generic[C]):
    """A candidate, its probabilities by row (those rated so far), and the seconds that they took."""

    candidate: C
    rated: dict[int, Shares] = field(default_factory=dict)
    seconds: float = 0.0
    fault: str | None = None


@dataclass(frozen=True)
class Found(Generic[C]):
    """`best` is None where no candidate came through the first round; `complete` says that no time was lacking."""

    best: PromptTrial[C] | None
    trials: tuple[PromptTrial[C], ...]
    complete: bool


class _OutOfTime(Exception):
    pass


@dataclass(frozen=True)
class Budget:
    """`clock` gives seconds; nothing is begun from `deadline` on. `batch` rows are asked at a time."""

    clock: Callable[[], float]
    deadline: float
    batch: int = 1


def halve(
    candidates: Sequence[C],
    rows: Sequence[int],
    rate: Callable[[C, Sequence[int]], Sequence[Shares]],
    quality: Callable[[Sequence[int], Sequence[Shares]], Quality],
    budget: Budget,
    on_better: Callable[[PromptTrial[C]], None] = lambda trial: None,
) -> Found[C]:
    """Find the best candidate on `rows` (taken in that order, so that the first ones must be a fair sample).

    `rate` gives a candidate's label probabilities for some rows, `quality` how good such are. A candidate for which
    `rate` raises EngineError is out. `on_better` gets each new leader, and the leader again with more rows.
    Raises EngineError where no candidate can be asked at all.
    """
    trials = [PromptTrial(candidate) for candidate in candidates]
    alive, best = list(trials), None

    def worth(trial: PromptTrial[C], taken: Sequence[int]) -> Quality:
        return quality(taken, [trial.rated[row] for row in taken])

    try:
        for count in _rounds(len(candidates), len(rows)):
            taken, ranked = rows[:count], []
            for trial in alive:
                if not _extend(trial, taken, rate, budget):
                    continue
                ranked = sorted([*ranked, trial], key=lambda each: worth(each, taken), reverse=True)
                if ranked[0] is not best or trial is best:
                    best = ranked[0]
                    on_better(best)
            alive = ranked[: max(1, math.ceil(len(ranked) / 2))]
    except _OutOfTime:
        return Found(best, tuple(trials), False)
    if best is None and trials and rows:
        raise EngineError(trials[-1].fault or "no candidate could be asked")
    return Found(best, tuple(trials), True)


def records_to_rate(candidates: int, rows: int) -> int:
    """Number of records that `halve` rates if it has the time."""
    total = done = 0
    for count in _rounds(candidates, rows):
        total, done = total + candidates * (count - done), count
        candidates = math.ceil(candidates / 2)
    return total


def _rounds(candidates: int, rows: int) -> list[int]:
    """Rows of each round: doubling up to all of them, in as many rounds as it takes to halve down to two."""
    if rows == 0 or candidates == 0:
        return []
    halvings = max(0, math.ceil(math.log2(candidates)) - 1)
    wanted = {max(min(FEWEST_ROWS, rows), math.ceil(rows / 2**each)) for each in range(halvings + 1)}
    return sorted(wanted)


def _extend(
    trial: PromptTrial[C], rows: Sequence[int], rate: Callable[[C, Sequence[int]], Sequence[Shares]], budget: Budget
) -> bool:
    """Rate what the trial lacks of `rows`; False where the candidate cannot be asked. Raises _OutOfTime."""
    missing = [row for row in rows if row not in trial.rated]
    for start in range(0, len(missing), budget.batch):
        if budget.clock() >= budget.deadline:
            raise _OutOfTime
        batch, begun = missing[start : start + budget.batch], budget.clock()
        try:
            trial.rated.update(zip(batch, rate(trial.candidate, batch), strict=True))
        except EngineError as error:
            trial.fault = str(error)
            return False
        trial.seconds += budget.clock() - begun
    return True
