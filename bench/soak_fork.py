"""Run a job in a fork of this process, which has the imports done, and kill it at a point."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.chmod", "sqlite3.connect")
POLL = 0.0005  # seconds
COUNT, LOG = "soak.operations", "soak.log"


class Point(NamedTuple):
    """Seconds of processor time of the job, or the number of its operation on a file, before which it is killed."""

    by: Literal["cpu", "file"]
    at: float


@dataclass(frozen=True)
class Used:
    """A job that ended: exit code, the last line that it wrote, what it took."""

    code: int
    log: str
    cpu: float
    operations: int


@dataclass(frozen=True)
class Killed:
    """A job that was killed at its point, or because it did not end."""

    by: str
    hung: bool = False


def fork(work: Callable[[], object], folder: Path, point: Point | None = None, *, seconds: float) -> Used | Killed:
    """Run `work` in a fork until it ends, reaches the point, or `seconds` are over. Linux only."""
    log, count = folder.with_name(f"{folder.name}.{LOG}"), folder.with_name(f"{folder.name}.{COUNT}")
    count.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _child(work, folder, log, count, int(point.at) if point and point.by == "file" else 0)
    hung = _watch(pid, point.at if point and point.by == "cpu" else None, time.monotonic() + seconds)
    _, status, usage = os.wait4(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it has started
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Killed(point.by if point else "", hung)
    code = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace").strip().splitlines()
    operations = int(count.read_text()) if count.exists() else 0
    return Used(code, said[-1][:300] if said else "", usage.ru_utime + usage.ru_stime, operations)


def _watch(pid: int, cpu: float | None, until: float) -> bool:
    """Kill the process at so much processor time, or at the end of the time (True)."""
    clock = (~pid << 3) | 2  # the processor-time clock of another process (Linux, posix-timers.h)
    while True:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return False
        late = time.monotonic() > until
        with suppress(OSError):  # it has just ended
            if late or (cpu is not None and time.clock_gettime(clock) >= cpu):
                os.kill(pid, signal.SIGKILL)
                return late
        time.sleep(POLL)


def _child(work: Callable[[], object], folder: Path, log: Path, count: Path, last: int) -> None:
    code = 70
    try:
        os.setsid()
        sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115 - for the rest of the process
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        done = _count_operations(folder, last)
        work()
        count.write_text(str(done[0]))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        count.write_text(str(done[0]))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _count_operations(folder: Path, last: int) -> list[int]:
    """Count the operations on files below the folder; before number `last` the process kills itself."""
    done, place, writes = [0], str(folder), os.O_WRONLY | os.O_RDWR

    def hook(event: str, given: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(given[0], str) and given[2] & writes
        if (opened or event in CHANGES) and place in str(given[0]):
            done[0] += 1
            if done[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return done
