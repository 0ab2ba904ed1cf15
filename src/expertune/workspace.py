"""Output folder of one run: log, progress, timings, cached passes and servers to close."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from . import outputs
from .estimate.job import JobPlan
from .files import write_json
from .log import log, log_file
from .predict.score import Pass
from .progress import Progress
from .tracking import Tracking


@dataclass(frozen=True)
class Workspace:
    """Resources shared by the stages of a run. `seconds` holds the wall time of each stage so far, `parts` that of the
    stages of the plan (estimate/job.py), which are finer; `started` is the time of the run's start. `dry_run`: the run
    ends with the plan of its time. `nproc`: processes of the training.
    """

    folder: Path
    progress: Progress
    resume: bool
    seconds: dict[str, float] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    parts: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    dry_run: bool = False
    tracking: Tracking = field(default_factory=Tracking)
    nproc: int = 1

    @property
    def checkpoints(self) -> Path:
        return self.folder / outputs.CHECKPOINTS

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def retire_earlier_run(self) -> None:
        """Move the results of a finished run out of the folder, before the first file of this run is written."""
        if outputs.retire_run(self.folder):
            line = f"The finished run that was in {self.folder} is now in {self.folder / outputs.EARLIER}"
            self.progress.say(line)
            log.info("%s", line)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Add the wall time of the block to that of the stage."""
        return self._timed(self.seconds, name)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Add the wall time of the block to that of the plan's stage."""
        return self._timed(self.parts, name)

    @contextmanager
    def _timed(self, seconds: dict[str, float], name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with self.progress.whole.part(name):
                yield
        finally:
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def with_actual(self, job: JobPlan | None) -> JobPlan | None:
        """The plan with the seconds that its stages took."""
        if job is None:
            return None
        write = max(0.0, self.seconds.get("export", 0.0) - self.parts.get("check", 0.0))
        parts = {**self.seconds, **self.parts, "write": write}
        return job.finished({name: round(seconds, 3) for name, seconds in parts.items() if seconds})

    def once(self, name: str, run_id: str, make: Callable[[], Pass]) -> Pass:
        """The pass called `name`: read from disk in a resumed run, else computed and kept."""
        path = self.checkpoints / f"{name}.json"
        if self.resume and (kept := _kept_pass(path, run_id)):
            return kept
        made = make()
        write_json(path, {"run": run_id, **asdict(made)})
        return made


def _kept_pass(path: Path, run_id: str) -> Pass | None:
    """Read a pass; None if the file is missing, or of another run or version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Pass).validate_python(content) if content.pop("run") == run_id else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def open_workspace(
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    debug: bool,
    dry_run: bool = False,
    log_to: Sequence[str] = (),
    nproc: int = 1,
) -> Iterator[Workspace]:
    """Open log, event file and trackers of a run; at the end close them, and the servers that the stages opened."""
    with (
        nullcontext() if dry_run else log_file(folder / outputs.LOG, debug=debug),
        Progress(quiet=quiet, events=None if dry_run else folder / outputs.EVENTS) as progress,
        ExitStack() as stack,
    ):
        tracking = Tracking(log_to, folder / outputs.TRACKING, progress.say)
        stack.callback(tracking.close)
        yield Workspace(folder, progress, resume, stack=stack, dry_run=dry_run, tracking=tracking, nproc=nproc)
