"""Run a command on a disk with ever more room, from none until it ends: each time it fails at a later write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from expertune.files import sha256

PAGE = 4096
ROOMS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # pages
TEMPORARY = (".tmp", ".part", ".rows")
OWN = ("fine_tuner.log", "training_events.jsonl")  # logs, which only grow


@dataclass(frozen=True)
class Disk:
    """A tmpfs at `folder`, or any folder with a limit on the size of each file, for users other than root."""

    folder: Path
    is_tmpfs: bool

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """For the block only `size` bytes are free, or no file may be larger."""
        if not self.is_tmpfs:
            with _file_limit(size):
                yield
            return
        filler, free = self.folder / "filler", shutil.disk_usage(self.folder).free
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - size))
        try:
            yield
        finally:
            filler.unlink()


@contextmanager
def _file_limit(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="neither a tmpfs nor a limit on the size of a file here")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    is_tmpfs = is_root and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, is_tmpfs)
    finally:
        if is_tmpfs:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.suffix in TEMPORARY]


def one_line(errors: str) -> bool:
    """Nothing but notes and warnings before a single last line."""
    lines = errors.strip().splitlines()
    errors_found = [line for line in lines if line.startswith("error: ")]
    return lines[-1:] == errors_found and "Traceback" not in errors and "Logging error" not in errors


def sweep(
    disk: Disk, inputs: Path, made: Sequence[str], run: Callable[[Path], tuple[int, str]], rooms: Sequence[int] = ROOMS
) -> int:
    """Times that `run` failed before it ended; `inputs` is copied for each, `made` are the files that it writes.

    After a failure the files that were there are as they were, and no half or temporary file is there.
    """
    work = disk.folder / "work"
    for failed, pages in enumerate(rooms):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(inputs, work)
        before = hashes(work)
        with disk.room(pages * PAGE):
            code, errors = run(work)
        after = hashes(work)
        assert not temporary(work), (pages, temporary(work))
        assert {name: after.get(name) for name in before if name not in made} == {
            name: digest for name, digest in before.items() if name not in made
        }, (pages, "an input has changed")
        if code == 0:
            assert all(name in after and after[name] != before.get(name) for name in made), pages
            return failed
        assert code == 1 and one_line(errors), (pages, code, errors)
        yet = [name for name in made if after.get(name) != before.get(name)]
        assert yet == [*made][: len(yet)] and len(yet) < len(made), (pages, yet)  # whole ones, in their order
    raise AssertionError(f"still fails with {rooms[-1]} free pages: {errors}")
