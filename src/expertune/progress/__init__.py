"""Progress display: bars on a terminal, occasional lines elsewhere, and every training event in a file.

    with Progress(events=folder / "train_events.jsonl") as progress:
        with progress.stage("Training", total=steps):
            for event in train(...):
                progress.show(event)

All of it goes to stderr, so stdout stays for results. No text of a record comes here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import OutputError
from ..train.events import DevEvent, Event, StepEvent
from .throughput import RunThroughput, Throughput, duration_text, speed_text, validation_text

if TYPE_CHECKING:
    from rich.console import Console

Clock = Callable[[], float]  # seconds since any fixed moment

LINE_SECONDS = (5.0, 60.0)  # between two plain lines: at first, and in work of ten minutes and more


class Stage:
    """One piece of long work. `total` is None if unknown; `advance` may be called from several threads."""

    def __init__(self, name: str, total: int | None, done: int, unit: str, display: Lines | Bars, clock: Clock) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.rate: float | None = None
        self.seconds_left: float | None = None
        self.note = ""
        self.started = self._last = clock()
        self._throughput, self._display, self._clock, self._lock = Throughput(), display, clock, threading.Lock()

    def advance(self, n: int = 1) -> None:
        """Report `n` more units."""
        with self._lock:
            now = self._clock()
            self._throughput.add(n, now - self._last)
            self._last, self.done = now, self.done + n
            self.rate = rate = self._throughput.rate
            self.seconds_left = max(0, self.total - self.done) / rate if rate and self.total is not None else None
            self._display.update(self)

    def follow(self, event: StepEvent, throughput: RunThroughput) -> None:
        with self._lock:
            self.done, self.total, self.unit = event.step, event.steps, "tokens"
            self.rate, self.seconds_left = throughput.tokens.rate, throughput.seconds_left(event.steps - event.step)
            self.note = f"loss {event.loss:.3f}"
            self._display.update(self)

    @property
    def count(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    @property
    def seconds(self) -> float:
        return self._clock() - self.started

    def status(self) -> str:
        """Count, share, rate, time left and note: `12/100 (12%), 1,234 tokens/s, 42 s left, loss 0.412`."""
        share = f"{self.count} ({self.done / self.total:.0%})" if self.total else self.count
        parts = [share, speed_text(self.rate, self.unit), self.note]
        if self.seconds_left is not None:
            parts.insert(2, f"{duration_text(self.seconds_left)} left")
        return ", ".join(part for part in parts if part)


class Lines:
    """Plain lines for files and pipes: at every tenth of the work, and where the last line is some seconds old.

    Shows nothing without a stream: quiet, or a windowed Python that has no stderr.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._last: dict[Stage, tuple[float, int]] = {}  # seconds into the stage, tenths done

    def open(self, stage: Stage) -> None:
        self._last[stage] = (0.0, _tenths(stage))
        self.say(f"{stage.name}: {stage.count}" if stage.total else f"{stage.name} ...")

    def update(self, stage: Stage) -> None:
        now, tenths = stage.seconds, _tenths(stage)
        last, tenths_then = self._last.get(stage, (0.0, 0))
        first, most = LINE_SECONDS
        if tenths > tenths_then or now - last >= min(most, max(first, now / 10)):
            self._last[stage] = (now, tenths)
            self.say(f"{stage.name}: {stage.status()}")

    def say(self, line: str) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a closed pipe must not end hours of work
                print(line, file=self._stream, flush=True)

    def close(self, stage: Stage, ending: str) -> None:
        self._last.pop(stage, None)
        self.say(f"{stage.name}: {ending}")


def _tenths(stage: Stage) -> int:
    return 10 * stage.done // stage.total if stage.total else 0


class Bars:
    """Live bars on a terminal, while at least one stage is open."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Any = None
        self._tasks: dict[Stage, Any] = {}

    def open(self, stage: Stage) -> None:
        if self._live is None:
            self._live = _live_bars(self._console)
            self._live.start()
        self._tasks[stage] = self._live.add_task(stage.name, total=stage.total, completed=stage.done, status="")

    def update(self, stage: Stage) -> None:
        if stage in self._tasks:
            self._show(stage, stage.status())

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def close(self, stage: Stage, ending: str) -> None:
        self._show(stage, ending)
        self._live.stop_task(self._tasks.pop(stage))
        if not self._tasks:
            self._live.stop()
            self._live = None

    def _show(self, stage: Stage, status: str) -> None:
        self._live.update(self._tasks[stage], total=stage.total, completed=stage.done, status=status)


def _live_bars(console: Console) -> Any:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Live

    name, status = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[status]}"))
    # results go to stdout; rich must not redirect it to stderr
    return Live(
        SpinnerColumn("line"),
        name,
        BarColumn(bar_width=24),
        status,
        console=console,
        refresh_per_second=4,
        redirect_stdout=False,
    )


class EventLog:
    """Append training events to a file as JSON lines, numbers only; a resumed run continues the same file."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._handle: int | None = None

    def write(self, event: Event) -> None:
        """Append one event. Raises OutputError where the file cannot be written."""
        facts = dataclasses.asdict(event)
        record = {"event": facts.pop("kind")} | {name: _plain(value) for name, value in facts.items()}
        try:
            if self._handle is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(self._handle, (json.dumps(record, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror or error}); "
                "check the output folder and run again with --resume"
            ) from error

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Progress:
    """Progress display of one run; `events` is the file that every training event is appended to.

    `console` is a rich Console to draw on; without one, stderr gets bars if it is a terminal and lines if not.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        events: Path | None = None,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.quiet = quiet
        self._display = _choose_display(quiet, console)
        self._log = EventLog(events) if events is not None else None
        self._clock = clock
        self._open: list[Stage] = []
        self._throughput = RunThroughput()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._log is not None:
            self._log.close()

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Stage]:
        """Open a stage. `done` units were finished by an earlier run; `unit` names what is counted ("records")."""
        stage = Stage(name, total, done, unit, self._display, self._clock)
        self._display.open(stage)
        self._open.append(stage)
        ending, counted = "stopped after {}", "stopped at {} after {}"
        try:
            yield stage
            ending, counted = "done in {}", "done, {} in {}"
        finally:
            self._open.remove(stage)
            seconds = duration_text(stage.seconds)
            known = stage.total or stage.done
            self._display.close(stage, counted.format(stage.count, seconds) if known else ending.format(seconds))

    def say(self, line: str) -> None:
        self._display.say(line)

    def show(self, event: Event) -> None:
        """Show a training event in the innermost open stage, if any, and append it to the file."""
        if self._log is not None:
            self._log.write(event)
        self._throughput.add(event)
        if not self._open:
            return
        stage = self._open[-1]
        if isinstance(event, DevEvent):
            self._display.say(f"{stage.name}: step {event.step:,}, {validation_text(event)}")
        else:
            stage.follow(event, self._throughput)


def _choose_display(quiet: bool, console: Console | None) -> Lines | Bars:
    if quiet:
        return Lines(None)
    if console is None and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console as RichConsole

        console = RichConsole(stderr=True)
    if console is not None and console.is_terminal:
        return Bars(console)
    return Lines(sys.stderr if console is None else console.file)
