"""Start or join the processes of a training, and train in those that are not the first.

Rank 0 runs the whole command, and it alone writes. The others only train: `--nproc` starts them for the training,
torchrun starts them with the command, and they wait.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from ..config import Config, with_changes
from ..errors import ExpertuneError, Interrupted, ModelFileError, RankLostError, TrainingFailedError
from ..files import sha256
from ..machine import launched, local_processes, loopback, usable_cores
from .checkpoint import CheckpointPlace
from .data import TrainingData
from .ranks import ALONE, LOST, Ranks, connected, lost

log = logging.getLogger("expertune")

TO_JOIN = timedelta(minutes=5)
TO_WAIT = timedelta(days=30)  # rank 0 may read and rate for hours; gloo notices at once that a process was lost
TO_ADD = timedelta(minutes=5)  # NCCL does not notice it
TO_EXPLAIN = 5.0  # seconds until a process whose connection broke has ended
START, READY = "expertune/start", "expertune/ready"
TRAIN, END = b"train", b"end"


@dataclass(frozen=True)
class Job:
    """Everything that a rank needs to train. `sha256` is that of the base, `longest` the tokens of the longest row."""

    base: Path
    sha256: str
    config: Config
    data: TrainingData
    longest: int
    place: CheckpointPlace


@contextmanager
def training_ranks(nproc: int) -> Iterator[Ranks]:
    """The processes of a training, seen from rank 0: those of torchrun, or `nproc`, which are started here.

    Raises RankLostError.
    """
    count, threads = launched()[1], torch.get_num_threads()
    try:
        if count > 1:
            with _group(_launched_store(), 0, count) as ranks:
                yield ranks
        elif nproc > 1:
            with _children(nproc) as (store, why), _group(store, 0, nproc, why) as ranks:
                yield ranks
        else:
            yield ALONE
    finally:
        torch.set_num_threads(threads)


def begin(ranks: Ranks, job: Job) -> Ranks:
    """Send rank 0's job to the others, and take its share of the machine."""
    if ranks.count == 1:
        return ranks
    log.info("training in %d processes", ranks.count)
    ranks.first(lambda: job)
    return _settled(ranks, job.config)


def serve() -> int:
    """Train as one of torchrun's processes, when rank 0 begins to; returns the exit code."""
    return _serve(_launched_store, *launched())


def dismiss() -> None:
    """End the other processes of torchrun if there was no training."""
    if not _launched_store().check([START]):
        _launched_store().set(START, END)


@functools.cache
def _launched_store() -> Any:
    return next(rendezvous("env://", timeout=TO_WAIT if launched()[0] else TO_JOIN))[0]


@contextmanager
def _group(store: Any, rank: int, count: int, why: Callable[[], str] = lambda: LOST) -> Iterator[Ranks]:
    if rank == 0:
        store.set(START, TRAIN)
    with connected(why):
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=TO_JOIN)
        world: Any = dist.group.WORLD
        world.set_timeout(TO_WAIT)
    try:
        yield Ranks(rank, count, why=why)
    finally:
        dist.destroy_process_group()


def _settled(ranks: Ranks, config: Config) -> Ranks:
    """Take this rank's threads and GPU; NCCL adds up the gradients where each process has a GPU of its own."""
    torch.set_num_threads(_threads(config))
    if config.device != "cuda":
        return ranks
    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % cards)
    own = all(ranks.gather([dist.is_nccl_available() and cards >= local_processes()]))
    return replace(ranks, nccl=dist.new_group(backend="nccl", timeout=TO_ADD)) if own else ranks


def _threads(config: Config) -> int:
    return max(1, (config.threads or usable_cores()) // local_processes())


@contextmanager
def _children(count: int) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Start ranks 1 to `count` - 1 and wait for them. They end when their standard input does, so with this process."""
    settings = {"LOCAL_WORLD_SIZE": str(count), **loopback()}
    with tempfile.TemporaryDirectory(prefix="expertune-") as name, ExitStack() as stack:
        os.environ.update(settings)
        stack.callback(lambda: [os.environ.pop(each) for each in settings])
        folder = Path(name)
        store = FileStore(str(folder / "store"), count)
        children = [stack.enter_context(_child(folder, rank, count)) for rank in range(1, count)]
        why = functools.partial(_why, children, folder)
        while not store.check([f"{READY}{rank}" for rank in range(1, count)]):
            if any(child.poll() is not None for child in children):
                raise lost(why)
            time.sleep(0.05)
        yield store, why


def _child(folder: Path, rank: int, count: int) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
    with (folder / f"rank{rank}").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder / "store"), str(rank), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "LOCAL_RANK": str(rank)},
            start_new_session=True,  # Ctrl-C is for rank 0
        )


def _why(children: Sequence[subprocess.Popen[bytes]], folder: Path) -> str:
    """Name the process that failed; those that only lost their connection end with 0."""
    until = time.monotonic() + TO_EXPLAIN
    while time.monotonic() < until:
        for rank, child in enumerate(children, 1):
            if code := child.poll():
                name = f"training process {rank + 1} of {len(children) + 1}"
                lines = (folder / f"rank{rank}").read_text(encoding="utf-8", errors="replace").splitlines()
                said = lines[-1] if lines else f"exit code {code}"
                return f"{name} was killed (signal {-code})" if code < 0 else f"{name} failed ({said})"
        time.sleep(0.05)
    return LOST


def _serve(open_store: Callable[[], Any], rank: int, count: int) -> int:
    """Wait for rank 0, and train. 0 also where a process was lost: rank 0 says which one, and the launcher knows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 takes Ctrl-C, and all stop after the same step
    try:
        with connected(lambda: LOST):
            store = open_store()
            store.set(f"{READY}{rank}", b"1")
            store.wait([START], TO_WAIT)
            trains = store.get(START) == TRAIN
        if trains:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with _group(store, rank, count) as ranks:
                _train(ranks)
    except (Interrupted, RankLostError, TrainingFailedError):
        return 0
    except Exception as error:
        reason = str(error) if isinstance(error, ExpertuneError) else f"unexpected {type(error).__name__}"
        print(" ".join(reason.split()), file=sys.stderr)
        return 1
    return 0


def _train(ranks: Ranks) -> None:
    from ..gguf.read import GGUFFile
    from ..model.load import load, place
    from .loop import Trainer

    job: Any = ranks.first(lambda: None)
    ranks, config = _settled(ranks, job.config), with_changes(job.config, threads=_threads(job.config))
    if ranks.count > local_processes() and not (job.base.exists() and sha256(job.base) == job.sha256):
        raise ModelFileError(f"{job.base}: not the file that rank 0 tunes; copy that one to this machine")
    with GGUFFile(job.base) as file:
        tunable = load(file, config, place(file, config), row_tokens=job.longest)
        trainer = Trainer(tunable, job.data, config, checkpoints=job.place, ranks=ranks)
        if trainer.trunk_rows:
            trainer.read_trunk()
        for _ in trainer.run():
            pass


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


def main(store: str, rank: str, count: str) -> int:
    """Train as one of the processes that `_children` starts."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return _serve(lambda: FileStore(store, int(count)), int(rank), int(count))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
