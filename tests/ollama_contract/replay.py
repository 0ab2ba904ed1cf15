"""The recorded exchanges with a real Ollama 0.33, by name."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "data/ollama_exchanges"


@functools.cache
def _files() -> dict[str, Path]:
    """Names to files; where a name is used twice, the one outside faults/."""
    files = [*FOLDER.glob("faults/*.json"), *FOLDER.glob("*.json")]
    return {path.stem.split("-", 1)[1]: path for path in files}


def recorded(name: str) -> dict[str, Any]:
    """One exchange: name, note, request, response, as it was recorded."""
    return json.loads(_files()[name].read_text("utf-8"))


def recorded_names() -> list[str]:
    """In the order in which they were made; what a later one sees was made by an earlier one."""
    files = sorted(FOLDER.glob("*.json"), key=lambda path: int(path.stem.split("-")[0]))
    return [path.stem.split("-", 1)[1] for path in files]
