"""Cache of measured throughputs in a small file of the user, keyed by everything that affects them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import OutputError
from ..files import write_json
from ..machine import usable_cores
from ..model.memory import RowShape
from .capability import TrainingThroughput

MOST = 500  # entries kept, the newest ones
KINDS = {"float": (int, float), "int": int, "str": str, "bool": bool}


def cache_file() -> Path:
    """Path of the cache: $XDG_CACHE_HOME/expertune/rates.json, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() raises without a home
    return Path(base) / "expertune" / "rates.json"


def cached_throughput(model: Path, shape: RowShape) -> TrainingThroughput | None:
    """Read the throughput measured for this file on this machine; None if there is none."""
    try:
        return _rate(_read()[_key(model, shape)])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def cache_throughput(model: Path, shape: RowShape, rate: TrainingThroughput) -> None:
    """Store a throughput if the folder is writable."""
    try:
        rates = {**_read(), _key(model, shape): asdict(rate)}
        write_json(cache_file(), dict(list(rates.items())[-MOST:]))
    except (OSError, OutputError):
        return


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _rate(values: Mapping[str, Any]) -> TrainingThroughput:
    """Parse an entry. Raises TypeError and ValueError for an invalid one."""
    rate = TrainingThroughput(**values)
    for name, kind in TrainingThroughput.__annotations__.items():
        if not isinstance(getattr(rate, name), KINDS[kind]):
            raise TypeError(name)
    if min(rate.tokens_per_second, rate.look_tokens_per_second) <= 0:
        raise ValueError("throughput must be positive")
    return rate


def _key(model: Path, shape: RowShape) -> str:
    """Hash of file, rows, machine and versions. Raises OSError if the file does not exist."""
    state = model.stat()
    file = (str(model.resolve()), state.st_size, state.st_mtime_ns)
    machine = (platform.node(), platform.machine(), usable_cores(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    parts = (*file, *machine, version("torch"), __version__, asdict(shape))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
