"""What a long stage has finished, kept for a resumed run: ratings of one file over one set of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import write_json
from ..predict.score import Pass, Rated


class PassCache:
    """A folder of finished passes. Only passes of the same run (settings, base, rows) are taken back."""

    def __init__(self, folder: Path, run_id: str, *, resume: bool) -> None:
        self._folder, self._run_id, self._resume = folder, run_id, resume

    def passed(self, name: str, make: Callable[[], Pass]) -> Pass:
        """The pass called `name`, from disk when resuming, else made and kept."""
        path = self._folder / f"{name}.json"
        found = self._read(path) if self._resume else None
        if found is None:
            found = make()
            write_json(path, {"run": self._run_id, **asdict(found)})
        return found

    def _read(self, path: Path) -> Pass | None:
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("run") != self._run_id:
                return None
            rated = tuple(
                Rated(**{**each, "probabilities": tuple(each["probabilities"])}) for each in content.pop("rated")
            )
            return Pass(rated=rated, **content)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or of another version: the pass is made again
