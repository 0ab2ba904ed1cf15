"""Rate blocks of records by the workers of a Ray cluster (ray_worker.py), and replace workers that end.

records ─ blocks ─► workers, two blocks each ─► journal (a block is one transaction) ─► output, in the input's order

A block whose worker or host is gone goes to another worker; a block that is in the journal is never rated again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from ..errors import EngineError, ExpertuneError, UsageError
from ..optional import installed_version
from ..predict.score import Prediction
from .batch import Advancing, Batch, RatedBatch, RateRequest, Text, hashes, missing_texts
from .journal import Journal, JournalEntry
from .ray_worker import Opener, Worker, WorkerFacts

BLOCKS_EACH = 2  # of a worker: one under way and one waiting, so that no worker waits for this process
BLOCKS_AHEAD = 3  # blocks a worker that are read before the first of them is written
MOST_LOSSES = 3  # workers that may end over one block; and per worker, with no block rated in between
START_SECONDS = 600.0  # until one worker is there: a cluster may have to start a host


class Share(NamedTuple):
    """How many workers there are, and what Ray reserves for each."""

    workers: int
    cpus: int
    gpus: int


@dataclass(eq=False)
class Block:
    """A batch on its way: the texts to be rated for it, what they gave (None before), and the workers that it cost."""

    batch: Batch
    keys: tuple[bytes | None, ...]
    texts: list[Text]
    computed: tuple[JournalEntry, ...] | None
    losses: int = 0


@dataclass(eq=False)
class RunningWorker:
    """An actor and the blocks that were sent to it, in this order, by the reference of their result."""

    actor: Any
    blocks: dict[Any, Block] = field(default_factory=dict)


class RayWorkers:
    """The workers as one scorer, which rates batches by blocks. Ray sends `opener` to each worker.

    Raises UsageError where the workers differ, EngineError where none starts or they end one after the other.
    """

    facts: WorkerFacts

    def __init__(self, opener: Opener, share: Share) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        self._ray, self._opener, self._share = ray, opener, share
        reserved = {"num_cpus": share.cpus, "num_gpus": share.gpus, "scheduling_strategy": "SPREAD"}
        self._actor: Any = ray.remote(Worker).options(**reserved)
        self._opening: dict[Any, Any] = {}  # actors by the reference of their facts
        self._workers: list[RunningWorker] = []
        self._waiting: deque[Block] = deque()
        self._hosts: set[str] = set()
        self._lost = self._lost_in_a_row = 0
        for _ in range(share.workers):
            self._start_worker()
        while not self._workers:
            self._receive()
        self.name, self.slots, self.explains = self.facts.engine, self.facts.slots, self.facts.explains

    # as a Scorer; all workers answer alike

    def render(self, record: str) -> str:
        return self._ask("render", record)

    def score(self, record: str) -> Prediction:
        return self._ask("score", record)

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        return self._ask("explain", record, label, max_tokens=max_tokens)

    def notes(self) -> tuple[str, ...]:
        lost = f"; {self._lost} ended before their time, and others rated their blocks" if self._lost else ""
        used = f"rated by {self._share.workers} Ray workers ({', '.join(sorted(self._hosts))}){lost}"
        return (*self.facts.notes, used)

    def describe(self) -> dict[str, Any]:
        return {**self.facts.description, "ray": installed_version("ray"), "workers": self._share.workers}

    def _ask(self, method: str, *given: Any, **more: Any) -> Any:
        try:
            return self._get(self._workers[0].actor.ask.remote(method, *given, **more))
        except self._ray.exceptions.RayError:
            raise EngineError("a Ray worker ended; run the same command again") from None

    # the blocks

    def rate_batches(
        self, batches: Iterable[Batch], request: RateRequest, journal: Journal, shown: Advancing
    ) -> Generator[tuple[Batch, RatedBatch], None, None]:
        """Yield the batches in their order, as `rate_by_threads` does; a block is journalled as soon as it is rated."""
        wanted, source = self._ray.put(request.wanted), iter(batches)
        ahead: deque[Block] = deque()
        under_way: set[bytes] = set()
        while True:
            for batch in islice(source, BLOCKS_AHEAD * self._share.workers - len(ahead)):
                ahead.append(self._block(batch, request, journal, under_way))
            if not ahead:
                return
            while ahead and (computed := ahead[0].computed) is not None:
                block = ahead.popleft()
                # a text may have been rated for an earlier block
                found = journal.find([key for key in block.keys if key is not None])
                shown.advance(len(block.batch))
                yield block.batch, RatedBatch(tuple(found[key] if key else None for key in block.keys), computed)
            if ahead:
                self._send(wanted, journal.session)
                if (block := self._receive()) and block.computed:
                    journal.put(*block.computed)
                    under_way.difference_update(key for key, *_ in block.texts)

    def _block(self, batch: Batch, request: RateRequest, journal: Journal, under_way: set[bytes]) -> Block:
        keys = hashes(batch)
        known = journal.find([key for key in keys if key is not None])
        texts = missing_texts(batch, keys, known, request, journal, under_way)
        under_way.update(key for key, *_ in texts)
        block = Block(batch, keys, texts, None if texts else ())
        if texts:
            self._waiting.append(block)
        return block

    def _send(self, wanted: Any, session: int) -> None:
        """Give waiting blocks to the workers that have the fewest."""
        while self._waiting and self._workers:
            worker = min(self._workers, key=lambda each: len(each.blocks))
            if len(worker.blocks) >= BLOCKS_EACH:
                return
            block = self._waiting.popleft()
            worker.blocks[worker.actor.rate.remote(block.texts, wanted, session)] = block

    def _receive(self) -> Block | None:
        """Wait for a worker: a block that it has rated; None if it has started or ended."""
        workers = {reference: worker for worker in self._workers for reference in worker.blocks}
        timeout = None if self._workers else START_SECONDS
        ready, _ = self._ray.wait([*workers, *self._opening], timeout=timeout)
        if not ready:
            each = f"{self._share.cpus} CPUs" + (" and a GPU" if self._share.gpus else "")
            raise EngineError(
                f"no Ray worker has started in {START_SECONDS / 60:.0f} minutes; each needs {each}: give fewer "
                "--threads, or see `ray status`"
            )
        (reference,) = ready
        worker = workers.get(reference)
        try:
            result = self._get(reference)
        except self._ray.exceptions.RayError:
            self._replace(worker, reference)
            return None
        if worker is None:
            self._accept(self._opening.pop(reference), result)
            return None
        block = worker.blocks.pop(reference)
        block.computed = tuple(result)
        self._lost_in_a_row = 0
        return block

    def _get(self, reference: Any) -> Any:
        """Raises ExpertuneError for an error of the worker's code, RayError for a worker that is gone."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ExpertuneError):
                raise error.cause from None
            raise EngineError(
                f"a Ray worker failed ({type(error.cause).__name__}); every host needs expertune[ray] "
                f"{installed_version('expertune')}"
            ) from None

    # the workers

    def _start_worker(self) -> None:
        actor = self._actor.remote()
        self._opening[actor.open.remote(self._opener)] = actor

    def _accept(self, actor: Any, facts: WorkerFacts) -> None:
        if not self._hosts:
            self.facts = facts
        if facts != self.facts:
            raise UsageError(
                f"host {facts.host}: rates otherwise than {self.facts.host} (another version, model file or prompt); "
                "install and copy the same on every host"
            )
        self._hosts.add(facts.host)
        self._workers.append(RunningWorker(actor))

    def _replace(self, worker: RunningWorker | None, reference: Any) -> None:
        """Start another worker for one that has ended, and have its blocks rated first."""
        self._lost += 1
        self._lost_in_a_row += 1
        if worker is None:
            del self._opening[reference]
        else:
            self._workers.remove(worker)
            self._ray.kill(worker.actor)  # it may only be out of reach
            first, *others = worker.blocks.values()
            first.losses += 1
            self._waiting.extendleft([*reversed(others), first])
            if first.losses >= MOST_LOSSES:
                rows = f"{first.batch[0].row} to {first.batch[-1].row}"
                raise EngineError(f"{first.losses} Ray workers ended while they rated rows {rows}; see Ray's logs")
        if self._lost_in_a_row > MOST_LOSSES * self._share.workers:
            raise EngineError(
                f"{self._lost_in_a_row} Ray workers ended one after the other; see Ray's logs (out of memory?), and "
                "run the same command again"
            )
        self._start_worker()
