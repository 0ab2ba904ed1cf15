"""Training events of a run in a file."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from pathlib import Path

from ..errors import OutputError
from ..train.events import Event


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
            line = (json.dumps(record, allow_nan=False) + "\n").encode()
            written = os.write(self._handle, line)
            if written < len(line):  # a full disk: no half line is left for the resumed run to go on from
                os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
