"""Compute together what several threads ask for one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Together(Generic[Item, Result]):
    """A function of one item, for many threads; one worker thread computes at most `most` waiting items at a time.

    Twice as many threads keep it busy: half of them prepare or use items while the others' are computed. An error of
    `compute` is raised in every thread whose item was computed with it.
    """

    def __init__(self, compute: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> None:
        self._compute, self._most = compute, most
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._lock = Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="together")

    def __call__(self, item: Item) -> Result:
        found: Future[Result] = Future()
        with self._lock:
            self._waiting.append((item, found))
        self._worker.submit(self._compute_waiting)  # one call for each item, so none is left; most find nothing
        return found.result()

    def _compute_waiting(self) -> None:
        with self._lock:
            some, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        if not some:
            return
        try:
            results = self._compute([item for item, _ in some])
        except Exception as error:
            for _, found in some:
                found.set_exception(error)
            return
        for (_, found), result in zip(some, results, strict=True):
            found.set_result(result)

    def close(self) -> None:
        """End the worker thread; what it computes now is finished."""
        self._worker.shutdown()
