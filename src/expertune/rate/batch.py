"""Rate batches of records: only the texts that the journal lacks, each once however often it occurs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..errors import EngineError
from ..predict.score import Prediction, Scorer
from ..ratings.records import RawRecord
from .columns import Wanted
from .journal import Journal, JournalEntry, record_hash

ANSWER_TOKENS = 160
FAILURES_IN_A_ROW = 10  # after so many the engine is tried with a probe
PROBE = "record"

Batch = Sequence[RawRecord]
Text = tuple[bytes, str, JournalEntry | None]  # its hash, what is to be rated, what the journal has of it


class Advancing(Protocol):
    def advance(self, n: int = 1) -> None: ...


@dataclass(frozen=True)
class RatedBatch:
    """An entry for each record of a batch, None for one that could not be read; and the entries computed now."""

    entries: tuple[JournalEntry | None, ...]
    computed: tuple[JournalEntry, ...]


@dataclass(frozen=True)
class RateRequest:
    """A scorer and all that decides its ratings. `digest` is the sha256 of the model file.

    `workers` rows are under way at once; 0 is as many as the scorer has slots. `rate_batches` is another way than by
    threads of this process.
    """

    scorer: Scorer
    config_id: str
    seed: int
    digest: str
    wanted: Wanted
    workers: int = 0
    rate_batches: RateBatches | None = None


# Yields the batches in their order, rated; closing it ends the work.
RateBatches = Callable[
    [Iterable[Batch], RateRequest, Journal, Advancing], Generator[tuple[Batch, RatedBatch], None, None]
]


def rate_by_threads(
    batches: Iterable[Batch], request: RateRequest, journal: Journal, shown: Advancing
) -> Generator[tuple[Batch, RatedBatch], None, None]:
    with pool(request.workers or request.scorer.slots) as threads:
        for batch in batches:
            yield batch, _rate_batch(batch, request, journal, threads, shown)


@contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """After an error or Ctrl-C no further row is begun; those under way end and are kept."""
    threads = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="rate")
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def hashes(batch: Batch) -> tuple[bytes | None, ...]:
    """The hash of each record's text, None for one that could not be read."""
    return tuple(record_hash(record.prompt) if record.fault is None else None for record in batch)


def missing_texts(
    batch: Batch,
    keys: Sequence[bytes | None],
    known: Mapping[bytes, JournalEntry],
    request: RateRequest,
    journal: Journal,
    under_way: Collection[bytes] = (),
) -> list[Text]:
    """The texts of a batch to be rated now: those without an entry that will do, and not `under_way` elsewhere."""
    prompts = {key: record.prompt for key, record in zip(keys, batch, strict=True) if key is not None}
    return [
        (key, prompt, known.get(key))
        for key, prompt in prompts.items()
        if key not in under_way and _is_missing(known.get(key), request, journal)
    ]


def _is_missing(entry: JournalEntry | None, request: RateRequest, journal: Journal) -> bool:
    """A failure is tried again, but once in a run."""
    if entry is None:
        return True
    if entry.error is not None:
        return entry.session != journal.session
    wanted = request.wanted
    return wanted.rationale and entry.answer_label != entry.label


def _rate_batch(
    batch: Batch, request: RateRequest, journal: Journal, threads: ThreadPoolExecutor, shown: Advancing
) -> RatedBatch:
    keys = hashes(batch)
    known = journal.find([key for key in keys if key is not None])
    texts = missing_texts(batch, keys, known, request, journal)
    copies = Counter(keys)
    if ready := len(batch) - sum(copies[key] for key, *_ in texts):
        shown.advance(ready)

    def rate_and_keep(text: Text) -> JournalEntry:
        entry = rate_text(text, request, journal.session)
        journal.put(entry)
        return entry

    computed: list[JournalEntry] = []
    for entry in as_rated({threads.submit(rate_and_keep, text) for text in texts}, request.scorer):
        computed.append(entry)
        shown.advance(copies[entry.record])
    entries = known | {entry.record: entry for entry in computed}
    return RatedBatch(tuple(None if key is None else entries[key] for key in keys), tuple(computed))


def as_rated(futures: Collection[Future[JournalEntry]], scorer: Scorer) -> Iterator[JournalEntry]:
    """Yield the entries as they come. Raises EngineError for an engine that no longer answers."""
    failures = 0
    for future in as_completed(futures):
        entry = future.result()
        yield entry
        failures = failures + 1 if entry.error is not None else 0
        if failures >= FAILURES_IN_A_ROW:
            _check_engine(scorer, entry.error)
            failures = 0


def _check_engine(scorer: Scorer, reason: str | None) -> None:
    """Rows may fail one after the other (too long, say); an engine that is gone must not fail a million."""
    try:
        scorer.score(PROBE)
    except EngineError:
        raise EngineError(
            f"{FAILURES_IN_A_ROW} rows failed one after the other ({reason}); see to it and run the same command again"
        ) from None


def rate_text(text: Text, request: RateRequest, session: int) -> JournalEntry:
    """Rate one text; an EngineError is the reason why it has no rating."""
    key, prompt, before = text
    start, scale = time.perf_counter(), request.wanted.scale
    override = before.override if before is not None else None
    try:
        if before is not None and before.error is None:  # only its reason is missing
            prediction = Prediction(before.probabilities, before.votes, chosen=scale.labels.index(before.label or ""))
        else:
            prediction = request.scorer.score(prompt)
        answer_label, answer = _explain(prompt, prediction, request)
    except EngineError as error:
        seconds = time.perf_counter() - start
        return JournalEntry(record=key, session=session, seconds=seconds, error=str(error), override=override)
    return JournalEntry(
        record=key,
        session=session,
        seconds=time.perf_counter() - start,
        label=scale.labels[prediction.label],
        value=scale.values[prediction.label],
        probabilities=prediction.probabilities,
        votes=prediction.votes,
        exact=prediction.exact,
        answer=answer,
        answer_label=answer_label,
        override=override,
    )


def _explain(prompt: str, prediction: Prediction, request: RateRequest) -> tuple[str | None, str | None]:
    """The label that will be written and the model's words after it; None where no reason is wanted."""
    if not request.wanted.rationale:
        return None, None
    label = request.wanted.scale.labels[prediction.label]
    return label, request.scorer.explain(prompt, label, max_tokens=ANSWER_TOKENS)
