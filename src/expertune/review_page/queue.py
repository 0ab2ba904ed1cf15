"""Choose the record that a rater sees next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set

Votes = Mapping[str, Mapping[int, int]]  # ratings by record and rater


def next_to_rate(order: Iterable[str], votes: Votes, rater: int, held: Set[str], overlap: float) -> str | None:
    """The next record for a rater; None when nothing is left.

    Some records are rated by two raters, so that their agreement is known: while their share is below `overlap`, the
    oldest that one other rater alone has rated; else the first in `order` that nobody has rated. `held` are the records
    that other raters see at the moment.
    """
    raters = [len(own) for own in votes.values() if own]
    if len(raters) - raters.count(1) < math.ceil(overlap * len(raters)):
        alone = (key for key, own in votes.items() if len(own) == 1 and rater not in own and key not in held)
        if (first := next(alone, None)) is not None:
            return first
    return next((key for key in order if not votes.get(key) and key not in held), None)


def to_revise(votes: Votes, revised: Votes, rater: int) -> str | None:
    """A record that the rater has rated without the model's view and has not decided on since."""
    open_ones = (key for key, own in votes.items() if rater in own and rater not in revised.get(key, ()))
    return next(open_ones, None)


def differing(finals: Iterable[tuple[str, Sequence[int]]], adjudicated: Votes) -> list[str]:
    """The records on which two experts differ and nobody has decided."""
    return [key for key, values in finals if len(set(values)) > 1 and not adjudicated.get(key)]
