"""Cache of measured speeds in a small file of the user, keyed by everything that affects them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from .. import __version__
from ..config import Config
from ..errors import OutputError
from ..files import cache_folder, write_json
from ..machine import usable_cores
from ..model.memory import RowShape
from ..optional import installed_version
from .capability import TrainingThroughput
from .job import RatingSpeed

MOST = 500  # entries kept, the newest ones
# settings that affect the speed
SETTINGS = ("device", "compute_dtype", "threads", "weight_cache", "layers", "rank", "target_modules", "batch_size")
POSITIVE = ("tokens_per_second", "look_tokens_per_second", "record_seconds")

Speed = TypeVar("Speed", TrainingThroughput, RatingSpeed)


def cache_file() -> Path:
    return cache_folder() / "rates.json"


def cached_speed(kind: type[Speed], model: Path, shape: RowShape, config: Config) -> Speed | None:
    """Read the speed measured for this file on this machine; None if there is none."""
    try:
        speed = TypeAdapter(kind).validate_python(_read()[_key(kind.__name__, model, shape, config)])
    except (OSError, KeyError, ValueError):
        return None
    return speed if min(getattr(speed, name) for name in POSITIVE if hasattr(speed, name)) > 0 else None


def cache_speed(model: Path, shape: RowShape, config: Config, speed: TrainingThroughput | RatingSpeed) -> None:
    """Store a speed if the folder is writable."""
    try:
        rates = {**_read(), _key(type(speed).__name__, model, shape, config): asdict(speed)}
        write_json(cache_file(), dict(list(rates.items())[-MOST:]))
    except (OSError, OutputError):
        return


def _read() -> dict[str, object]:
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(kind: str, model: Path, shape: RowShape, config: Config) -> str:
    """Hash of file, rows, settings, machine and versions. Raises OSError if the file does not exist."""
    state = model.stat()
    file = (str(model.resolve()), state.st_size, state.st_mtime_ns)
    machine = (platform.node(), platform.machine(), usable_cores(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    settings = [getattr(config, name) for name in SETTINGS]
    parts = (kind, *file, *machine, installed_version("torch"), __version__, asdict(shape), settings)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
