"""Recent throughput and time left, and the text of both."""

from __future__ import annotations

from collections import deque

from ..train.events import DevEvent, Event

ENTRIES = 20
SHORTEST = 0.2  # seconds; shorter entries are joined, since a burst of finished requests is not a speed


class Throughput:
    """Moving average: amounts over the seconds that they took, of the last `ENTRIES` entries."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float]] = deque(maxlen=ENTRIES)

    def add(self, amount: float, seconds: float) -> None:
        if self._entries and self._entries[-1][1] < SHORTEST:
            before, lasted = self._entries.pop()
            amount, seconds = amount + before, seconds + lasted
        self._entries.append((amount, seconds))

    @property
    def rate(self) -> float | None:
        """Amount per second; None before anything was measured."""
        seconds = sum(lasted for _, lasted in self._entries)
        return sum(amount for amount, _ in self._entries) / seconds if seconds > 0 else None


class RunThroughput:
    """Tokens per second and time left, from the seconds that each step and each validation took."""

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
        """Estimate the time of `steps` more steps, with validations as frequent as so far."""
        rate = self._steps.rate
        return steps * (1 / rate + self._dev_seconds / self._seen) if rate else None


def speed_text(rate: float | None, unit: str) -> str:
    """Format a rate: 1,234 tokens/s, 3.4 records/s, 4.0 s each; empty before anything was measured."""
    if not rate:
        return ""
    if rate < 1:
        return f"{1 / rate:,.1f} s each"
    return f"{rate:,.{0 if rate >= 100 else 1}f} {unit}".rstrip() + "/s"


def duration_text(seconds: float) -> str:
    """Format seconds: 4.2 s, 42 s, 12 min 9 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def validation_text(event: DevEvent) -> str:
    best = " (best so far)" if event.best else ""
    return f"validation loss {event.loss:.3f}, macro-F1 {event.macro_f1:.3f}, accuracy {event.accuracy:.3f}{best}"
