"""Share done and time left of a whole run, from the plan of its time (estimate/job.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .throughput import duration_text

if TYPE_CHECKING:
    from ..estimate.job import JobPlan

COUNTED = ("base", "load", "train")  # parts whose work one stage counts; the share of others goes by their time
MOST = 0.95  # share of a part that takes longer than planned
PRIOR = 0.1  # of the plan: its weight against the actual times, so that the first seconds are not carried over to hours


@dataclass
class _Part:
    """A part of the plan. `first` is the share that an earlier run had done; None before a stage of it was shown."""

    planned: float
    spent: float = 0.0
    share: float = 0.0
    first: float | None = None


class WholeJob:
    """Progress of the whole run; without a plan it says nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, clock()
        self._parts: dict[str, _Part] = {}
        self._name = ""
        self.share = 0.0

    def plan(self, seconds: Mapping[str, float]) -> None:
        """Follow this plan: estimated seconds of the parts, in the order of the run."""
        self._parts = {name: _Part(planned) for name, planned in seconds.items()}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The stages shown in the block belong to this part; to none if the plan does not have it."""
        outer = self._name
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def follow(self, done: int, total: int | None) -> str:
        """Note how much the open stage has done: `24 %, about 9 min left`; empty outside a plan."""
        part = self._parts.get(self._name)
        if part is None:
            return ""
        if self._name in COUNTED:
            part.share = max(part.share, done / total if total else 0.0)
        part.first = part.share if part.first is None else part.first
        ratio = self._ratio()
        if self._name not in COUNTED:
            expected = part.planned * ratio
            part.share = min(MOST, self._spent(self._name) / expected) if expected else MOST
        names = list(self._parts)
        later = sum(self._parts[name].planned for name in names[names.index(self._name) + 1 :])
        left, whole = later + part.planned * (1 - part.share), sum(each.planned for each in self._parts.values())
        self.share = max(self.share, 1 - left / whole) if whole else 0.0
        return f"{100 * self.share:.0f} %, {left_text(left * ratio)}"

    def _enter(self, name: str) -> None:
        if self._name in self._parts:
            part = self._parts[self._name]
            part.spent = self._spent(self._name)
            if self._name not in COUNTED:
                part.share = 1.0
        self._name, self._since = name, self._clock()

    def _spent(self, name: str) -> float:
        return self._parts[name].spent + (self._clock() - self._since if name == self._name else 0.0)

    def _ratio(self) -> float:
        """Actual to planned time of what this run has shown so far; the open part only where it is counted."""
        actual = planned = PRIOR * sum(part.planned for part in self._parts.values())
        for name, part in self._parts.items():
            if part.first is not None and (name in COUNTED or name != self._name):
                actual += self._spent(name)
                planned += part.planned * (part.share - part.first)
        return actual / planned if planned > 0 else 1.0


def plan_lines(job: JobPlan) -> list[str]:
    """The plan as a short table; settings that a limit has chosen come last."""
    limit = "" if job.minutes is None else f" (limit: {job.minutes:g} minutes)"
    lines = [f"Plan: about {duration_text(job.seconds)}{limit}"]
    width = max(len(stage.title) for stage in job.stages)
    lines += [f"  {stage.title:{width}}  {duration_text(stage.seconds):>12}" for stage in job.stages]
    if job.minutes is not None:
        own = job.settings
        lines.append(
            f"  with {own.layers} adapted layers, {own.epochs:g} epochs, {own.model_set_seconds:g} s at most for the "
            f"model set, {own.answers} free-text answers"
        )
    return lines


def left_text(seconds: float) -> str:
    """Format the time left: less than a minute left, about 9 min left, about 2 h 5 min left."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"about {minutes} min left" if minutes else "less than a minute left"
    return f"about {hours} h {minutes} min left"
