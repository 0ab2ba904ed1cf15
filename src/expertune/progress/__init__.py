"""Progress display: bars on a terminal, occasional lines elsewhere, and every training event in a file.

    with Progress(events=folder / "train_events.jsonl") as progress:
        with progress.stage("Training", total=steps):
            for event in train(...):
                progress.show(event)

All of it goes to stderr, so stdout stays for results. No text of a record comes here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..train.events import DevEvent, Event, StepEvent
from .event_log import EventLog
from .throughput import RunThroughput, Throughput, duration_text, speed_text, validation_text
from .whole_job import WholeJob

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("expertune")

Clock = Callable[[], float]  # seconds since any fixed moment

LINE_SECONDS = (5.0, 60.0)  # between two plain lines: at first, and in work of ten minutes and more
BRIEF = 0.5  # seconds; the end of shorter work that counts nothing needs no line


class Stage:
    """One piece of long work. `total` is None if unknown; `advance` may be called from several threads."""

    def __init__(self, name: str, total: int | None, done: int, unit: str, progress: Progress) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.rate: float | None = None
        self.seconds_left: float | None = None
        self.note = ""
        self.whole, self._display, self._clock = progress.whole, progress.display, progress.clock
        self.started = self._last = self._clock()
        self.job = self.whole.follow(done, total)
        self._throughput, self._lock = Throughput(), threading.Lock()

    def advance(self, n: int = 1) -> None:
        """Report `n` more units."""
        with self._lock:
            now = self._clock()
            self._throughput.add(n, now - self._last)
            self._last, self.done = now, self.done + n
            self.rate = rate = self._throughput.rate
            self.seconds_left = max(0, self.total - self.done) / rate if rate and self.total is not None else None
            self._update()

    def follow(self, event: StepEvent, throughput: RunThroughput) -> None:
        with self._lock:
            self.done, self.total, self.unit = event.step, event.steps, "tokens"
            self.rate, self.seconds_left = throughput.tokens.rate, throughput.seconds_left(event.steps - event.step)
            self.note = f"loss {event.loss:.3f}"
            self._update()

    def _update(self) -> None:
        self.job = self.whole.follow(self.done, self.total)
        self._display.update(self)

    @property
    def count(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    @property
    def counts(self) -> bool:
        return bool(self.total or self.done)

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
        opened = f"{stage.name}: {stage.count}" if stage.total else f"{stage.name} ..."
        self.say(f"{opened} (whole job: {stage.job})" if stage.job else opened)

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
        if stage.counts or stage.seconds >= BRIEF:
            self.say(f"{stage.name}: {ending}")


def _tenths(stage: Stage) -> int:
    return 10 * stage.done // stage.total if stage.total else 0


class Bars:
    """Live bars on a terminal, while at least one stage is open: one for each stage, and below them that of the job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Any = None
        self._job: Any = None
        self._tasks: dict[Stage, Any] = {}

    def open(self, stage: Stage) -> None:
        if self._live is None:
            self._live = _live_bars(self._console)
            self._live.start()
        self._remove_job()  # to add it again as the last one
        self._tasks[stage] = self._live.add_task(stage.name, total=stage.total, completed=stage.done, status="")
        self._show(stage, "")

    def update(self, stage: Stage) -> None:
        if stage in self._tasks:
            self._show(stage, stage.status())

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def close(self, stage: Stage, ending: str) -> None:
        self._show(stage, ending)
        self._live.stop_task(self._tasks.pop(stage))
        if not self._tasks:
            self._remove_job()
            self._live.stop()
            self._live = None

    def _show(self, stage: Stage, status: str) -> None:
        self._live.update(self._tasks[stage], total=stage.total, completed=stage.done, status=status)
        if stage.job and self._job is None:
            self._job = self._live.add_task("Whole job", total=1.0, status="")
        if stage.job:
            self._live.update(self._job, completed=stage.whole.share, status=stage.job)

    def _remove_job(self) -> None:
        if self._job is not None:
            self._live.remove_task(self._job)
            self._job = None


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


class Progress:
    """Progress display of one run; `events` is the file that every training event is appended to.

    `console` is a rich Console to draw on; without one, stderr gets bars if it is a terminal and lines if not.
    `whole` follows the whole run once it has a plan.
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
        self.whole = WholeJob(clock)
        self.display = _choose_display(quiet, console)
        self._log = EventLog(events) if events is not None else None
        self.clock = clock
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
        stage = Stage(name, total, done, unit, self)
        self.display.open(stage)
        self._open.append(stage)
        ending, counted = "stopped after {}", "stopped at {} after {}"
        try:
            yield stage
            ending, counted = "done in {}", "done, {} in {}"
        finally:
            self._open.remove(stage)
            seconds = duration_text(stage.seconds)
            ending = counted.format(stage.count, seconds) if stage.counts else ending.format(seconds)
            self.display.close(stage, ending)
            log.info("%s: %s", stage.name, ending)

    @contextlib.contextmanager
    def stage_if_needed(self, name: str, total: int, *, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Yield the `advance` of a stage that its first call opens: nothing is shown of work that was done before."""
        stage: Stage | None = None
        with contextlib.ExitStack() as opened:

            def advance(n: int) -> None:
                nonlocal stage
                if stage is None:
                    stage = opened.enter_context(self.stage(name, total, unit=unit))
                stage.advance(n)

            yield advance

    def say(self, line: str) -> None:
        self.display.say(line)

    def show(self, event: Event) -> None:
        """Show a training event in the innermost open stage, if any, and append it to the file."""
        if self._log is not None:
            self._log.write(event)
        self._throughput.add(event)
        if not self._open:
            return
        stage = self._open[-1]
        if isinstance(event, DevEvent):
            self.display.say(f"{stage.name}: step {event.step:,}, {validation_text(event)}")
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
