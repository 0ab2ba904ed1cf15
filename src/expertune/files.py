"""Atomic writes: temporary name, sync, rename. Outputs contain patient text, so their mode is 0600."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import OutputError

LINE_END = "\r\n"  # of CSV: with a bare "\n" Python's csv would leave a "\r" inside a cell unquoted


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path` only if the block ends without an error.

    Raises OutputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp creates the file with mode 0600
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {_remedy(error)}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove the temporary files that a killed process left of these files; for their only writer.

    A name "*" stands for every file of the folder.
    """
    for name in names:
        for left in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.tmp"):
            left.unlink(missing_ok=True)


def _remedy(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some disk space or choose another --output-dir, then run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose an --output-dir that you may write to"
    return "check the output folder and run again"


def _sync_folder(folder: Path) -> None:
    """Make the rename durable (POSIX only)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises OutputError."""
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text, lineterminator=LINE_END).writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; NaN and infinity raise ValueError, since JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """Folder of the user's caches: $XDG_CACHE_HOME/expertune, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() raises without a home
    return Path(base) / "expertune"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_text(count: float) -> str:
    """Format bytes: 4.7 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
