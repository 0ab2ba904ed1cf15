"""Ratings and raters made from label indices, for every test of this folder."""

from __future__ import annotations

from collections.abc import Sequence

from expertune.predict.score import Rated
from expertune.ratings.scale import RatingScale, make_scale
from expertune.ratings.schema import Rating

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
ORDINAL = make_scale({"low": 1, "middle": 2, "high": 3})


def truth(labels: Sequence[int], scale: RatingScale = SCALE, prompts: Sequence[str] | None = None) -> list[Rating]:
    return [
        Rating(f"r{at}", at + 2, prompts[at] if prompts else f"visit {at}", scale.values[label], scale.labels[label])
        for at, label in enumerate(labels)
    ]


def rated(labels: Sequence[int], scale: RatingScale = SCALE, sure: float = 0.8) -> list[Rated]:
    rest = (1 - sure) / (len(scale.labels) - 1)
    return [
        Rated(
            f"r{at}",
            scale.labels[label],
            scale.values[label],
            tuple(sure if other == label else rest for other in range(len(scale.labels))),
        )
        for at, label in enumerate(labels)
    ]
