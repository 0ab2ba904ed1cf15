"""Run on a host of a Ray cluster: open the judged file once and rate blocks of records."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError, ExpertuneError, UsageError
from ..machine import usable_cores
from ..optional import installed_version
from .artifact import Product, load_product
from .batch import PROBE, RateRequest, Text, as_rated, pool, rate_text
from .columns import Wanted
from .journal import JournalEntry
from .serve import Kind, ServedModel, serve

Opener = Callable[[], AbstractContextManager[ServedModel]]


@contextmanager
def open_product(
    folder: Path, wanted: Product, config_id: str, kind: Kind, cpus: int, options: Mapping[str, Any]
) -> Iterator[ServedModel]:
    """Open this host's copy of the product; `load_product` checks its files by the sha256 in the run's record.

    Raises ExpertuneError.
    """
    product = load_product(folder, wanted)
    if product.config_id != config_id:
        raise UsageError(f"{folder}: of another run than the one to rate with; copy the same folder to every host")
    with serve(product, kind, threads=min(cpus, usable_cores()), **options) as served:
        yield served


@dataclass(frozen=True)
class WorkerFacts:
    """What decides a worker's ratings, which is the same for all of them; `probe` is a record as its engine renders it.

    The other facts may differ.
    """

    version: str
    digest: str
    engine: str
    probe: str
    host: str = field(compare=False)
    slots: int = field(compare=False)
    explains: bool = field(compare=False)
    notes: tuple[str, ...] = field(compare=False)
    description: Mapping[str, Any] = field(compare=False)


class Worker:
    """An actor of Ray. Its methods raise ExpertuneError that names the host."""

    def open(self, opener: Opener) -> WorkerFacts:
        """Open the model until the process ends."""
        with _named_errors():
            self._stack = ExitStack()
            self._served = self._stack.enter_context(opener())
            scorer = self._served.scorer
            return WorkerFacts(
                version=installed_version("expertune"),
                digest=self._served.digest,
                engine=scorer.name,
                probe=scorer.render(PROBE),
                host=platform.node(),
                slots=scorer.slots,
                explains=scorer.explains,
                notes=scorer.notes(),
                description=scorer.describe(),
            )

    def rate(self, texts: Sequence[Text], wanted: Wanted, session: int) -> list[JournalEntry]:
        served = self._served
        request = RateRequest(served.scorer, "", 0, served.digest, wanted)
        with _named_errors(), pool(served.workers) as threads:
            futures = {threads.submit(rate_text, text, request, session) for text in texts}
            return list(as_rated(futures, served.scorer))

    def ask(self, method: str, *given: Any, **more: Any) -> Any:
        """Call a method of the scorer."""
        with _named_errors():
            return getattr(self._served.scorer, method)(*given, **more)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Ray logs an error with its message; those of others than us may quote a record."""
    try:
        yield
    except ExpertuneError as error:
        raise type(error)(f"host {platform.node()}: {error}") from None
    except Exception as error:
        raise EngineError(f"host {platform.node()}: {type(error).__name__} in a worker; run it again") from None
