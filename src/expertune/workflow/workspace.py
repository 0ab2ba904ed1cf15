"""Output folder of one run: log, progress, timings, cached passes and servers to close."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import outputs
from ..log import log_file
from ..predict.pass_cache import cached_pass
from ..predict.score import Pass
from ..progress import Progress


@dataclass(frozen=True)
class Workspace:
    """Resources shared by the stages of a run. `seconds` holds the wall time of each stage so far."""

    folder: Path
    progress: Progress
    resume: bool
    seconds: dict[str, float] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def checkpoints(self) -> Path:
        return self.folder / outputs.CHECKPOINTS

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to that of the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def once(self, name: str, run_id: str, make: Callable[[], Pass]) -> Pass:
        """The pass called `name`: read from disk in a resumed run, else computed and kept."""
        return cached_pass(self.checkpoints / f"{name}.json", run_id, make, resume=self.resume)


@contextmanager
def open_workspace(folder: Path, *, resume: bool, quiet: bool, debug: bool) -> Iterator[Workspace]:
    """Open log and event file of a run's folder; at the end close them, and the servers that the stages opened."""
    with (
        log_file(folder / outputs.LOG, debug=debug),
        Progress(quiet=quiet, events=folder / outputs.EVENTS) as progress,
        ExitStack() as stack,
    ):
        yield Workspace(folder, progress, resume, stack=stack)
