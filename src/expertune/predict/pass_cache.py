"""Cache finished passes of a model over records on disk, for a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from ..files import write_json
from .score import Pass


def cached_pass(path: Path, run_id: str, make: Callable[[], Pass], *, resume: bool) -> Pass:
    """Read the pass at `path` when resuming the run `run_id`; otherwise compute it and write it there."""
    kept = _read(path, run_id) if resume else None
    if kept is not None:
        return kept
    computed = make()
    write_json(path, {"run": run_id, **asdict(computed)})
    return computed


def _read(path: Path, run_id: str) -> Pass | None:
    """Read a pass; None if the file is missing, or of another run or version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("run") != run_id:
            return None
        return TypeAdapter(Pass).validate_python(content)
    except (OSError, ValueError, KeyError, TypeError):
        return None
