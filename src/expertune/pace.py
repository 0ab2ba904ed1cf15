"""How fast work goes and how long it will take, from what was measured last; and how both are written."""

from __future__ import annotations

from collections import deque

from .train.events import DevEvent, Event

PACE_ENTRIES = 20
PACE_SECONDS = 0.2  # shorter entries are joined: a burst of finished requests is not a speed


class Throughput:
    """The recent speed: amounts over the seconds that they took, of the last `PACE_ENTRIES` entries."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float]] = deque(maxlen=PACE_ENTRIES)

    def add(self, amount: float, seconds: float) -> None:
        if self._entries and self._entries[-1][1] < PACE_SECONDS:
            before, lasted = self._entries.pop()
            amount, seconds = amount + before, seconds + lasted
        self._entries.append((amount, seconds))

    @property
    def rate(self) -> float | None:
        """Amount per second; None before anything was measured."""
        seconds = sum(lasted for _, lasted in self._entries)
        return sum(amount for amount, _ in self._entries) / seconds if seconds > 0 else None


class RunThroughput:
    """Tokens per second and time left, from the seconds that each step and each look at the dev rows took."""

    def __init__(self) -> None:
        self.tokens, self._steps = Throughput(), Throughput()
        self._seen, self._dev_seconds = 0, 0.0

    def add(self, event: Event) -> None:
        if isinstance(event, DevEvent):
            self._dev_seconds += event.seconds
            return
        self.tokens.add(event.tokens, event.seconds)
        self._steps.add(1, event.seconds)
        self._seen += 1

    def seconds_left(self, steps: int) -> float | None:
        """For so many more steps, with the looks at the dev rows as often as up to now."""
        rate = self._steps.rate
        return steps * (1 / rate + self._dev_seconds / self._seen) if rate else None


def speed_text(rate: float | None, unit: str) -> str:
    if not rate:
        return ""
    if rate < 1:
        return f"{1 / rate:,.1f} s each"
    return f"{rate:,.{0 if rate >= 100 else 1}f} {unit}".rstrip() + "/s"


def time_text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def dev_text(event: DevEvent) -> str:
    best = " (best so far)" if event.best else ""
    return f"dev loss {event.loss:.3f}, macro F1 {event.macro_f1:.3f}, accuracy {event.accuracy:.3f}{best}"
