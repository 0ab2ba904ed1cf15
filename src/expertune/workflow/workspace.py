"""The output folder of one run: its log, progress, clock, finished passes and servers to close."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import outputs
from ..log import log_file
from ..predict.score import Pass
from ..progress import Progress
from .pass_cache import cached_pass


@dataclass(frozen=True)
class Workspace:
    """What the stages of a run share. `seconds` holds the wall time of each stage so far."""

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
        """Add the time that the block takes to the stage's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def once(self, name: str, run_id: str, make: Callable[[], Pass]) -> Pass:
        """The pass called `name`: from disk where a resumed run has finished it, else made and kept."""
        return cached_pass(self.checkpoints / f"{name}.json", run_id, make, resume=self.resume)


@contextmanager
def open_workspace(folder: Path, *, resume: bool, quiet: bool, debug: bool) -> Iterator[Workspace]:
    """The folder of a run with its log and events open; servers that the stages open are closed at the end."""
    with (
        log_file(folder / outputs.LOG, debug=debug),
        Progress(quiet=quiet, events=folder / outputs.EVENTS) as progress,
        ExitStack() as stack,
    ):
        yield Workspace(folder, progress, resume, stack=stack)
