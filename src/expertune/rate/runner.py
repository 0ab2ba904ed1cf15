"""New records → rated records: read in batches, rated once each, journalled at once, written in the order of the input.

records ─ batch ─► in the journal? ─ no ─► engine.slots at a time ─► journal
                        └────────────── yes ──────────────────────────► rows ─► output
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from ..engine.base import Engine
from ..errors import EngineError, Interrupted, UsageError
from ..predict.score import label_probabilities
from ..ratings.read import RawRecord, RecordFile, open_records
from .artifact import Artifact, Messages
from .columns import REASONS, Wanted, cells, likeliest, rationale_prompt
from .ensemble import Panel
from .journal import Journal, JournalEntry, record_hash
from .serve import ServedEngine
from .writer import Writer, checked_output, open_output

BATCH = 256  # rows read, rated and written at a time
ANSWER_TOKENS = 160
FAILURES_IN_A_ROW = 10  # after so many it is asked whether the engine still answers at all
PROBE = "record"


class Advancing(Protocol):
    def advance(self, n: int = 1) -> None: ...


Stage = Callable[..., AbstractContextManager[Advancing]]  # Progress.stage


@dataclass(frozen=True)
class RateRequest:
    """What decides a rating, and the engine that gives it. `digest` is the sha256 of the model file.

    `workers` rows are under way at once; 0 is as many as the engine has slots.
    """

    messages: Messages
    config_id: str
    seed: int
    engine: Engine
    digest: str
    wanted: Wanted
    workers: int = 0


@dataclass(frozen=True)
class Tally:
    """Rows of a run: `computed` were rated now, the other ones stood in the journal or repeat a text."""

    rows: int
    computed: int
    failed: int
    review: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def rate_file(
    source: Path,
    output: Path,
    product: Artifact,
    served: ServedEngine,
    stage: Stage,
    *,
    rationale: bool = False,
    calibrated: bool = True,
    journal: Path | None = None,
) -> Tally:
    """Rate a file with a loaded product; `journal` is beside the output where none is given.

    Raises DatasetError, UsageError, OutputError, EngineError (no longer answering) and Interrupted; what was rated
    until then is kept, and the same call goes on.
    """
    engine = served.engine
    panel = engine if isinstance(engine, Panel) else None
    if rationale and panel is not None and not panel.talks:
        raise UsageError(f"{product.folder}: its model set rates by TF-IDF alone; leave out --rationale")
    wanted = Wanted(product.scale, product.trust, calibrated=calibrated, rationale=rationale, panel=panel is not None)
    asked = RateRequest(
        product.messages, product.config_id, product.seed, engine, served.digest, wanted, workers=served.workers
    )
    checked_output(output, source)
    with Journal(journal or output.with_name(f"{output.name}.journal.sqlite")) as kept:
        with stage("Reading the records"):
            records = open_records(source)
        tally = rate_records(records, output, asked, kept, stage)
    notes = [*records.notes, *engine.notes, *product.trust.notes()]
    if not wanted.calibrated:
        notes.append("calibration was switched off")
    if inexact := engine.describe().get("inexact_scores"):
        notes.append(f"{inexact:,} rows: the server did not show every label's tokens, so their shares are approximate")
    return replace(tally, notes=tuple(notes))


def rate_records(records: RecordFile, output: Path, asked: RateRequest, journal: Journal, stage: Stage) -> Tally:
    """Rate the records and write them to `output`. Raises as `rate_file`."""
    added = asked.wanted.columns()
    if taken := [column for column in added if column in records.columns]:
        raise UsageError(f'{records.path}: column "{taken[0]}" is there already; rename or remove it')
    _begin(asked, journal)
    count: Counter[str] = Counter()
    start = time.perf_counter()
    try:
        with (
            open_output(output, records, added) as writer,
            stage("Rating", total=records.rows, unit="rows") as shown,
            _pool(asked.engine, asked.workers) as pool,
        ):
            for batch in records.batches(BATCH):
                entries = _rate_batch(batch, asked, journal, pool, shown, count)
                _write(batch, entries, asked.wanted, writer, count)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {count['rows']:,} of {records.rows:,} rows; the same command goes on"
        ) from None
    return Tally(count["rows"], count["computed"], count["failed"], count["review"], time.perf_counter() - start)


def _begin(asked: RateRequest, journal: Journal) -> None:
    """Also how the engine writes a prompt decides a rating: template, place of the system text, who renders it."""
    engine = asked.engine
    rendered = engine.render(asked.messages(PROBE))
    facts = f"{asked.config_id}\n{engine.name}\n{rendered}"
    journal.begin(
        config=hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest(),
        model=asked.digest,
        engine=engine.name,
        options={"context": engine.context, "slots": engine.slots, "temperature": 0, "answer_tokens": ANSWER_TOKENS},
        seed=asked.seed,
        versions={"expertune": _version("expertune"), **engine.describe()},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@contextmanager
def _pool(engine: Engine, workers: int) -> Iterator[ThreadPoolExecutor]:
    """After an error or Ctrl-C no further row is begun; those under way end and are kept."""
    pool = ThreadPoolExecutor(max_workers=max(1, workers or engine.slots), thread_name_prefix="rate")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _rate_batch(
    batch: Sequence[RawRecord],
    asked: RateRequest,
    journal: Journal,
    pool: ThreadPoolExecutor,
    shown: Advancing,
    count: Counter[str],
) -> list[JournalEntry]:
    """An entry for each record; what the journal lacks is rated, a text that is there twice only once."""
    keys = [record_hash(record.prompt) if record.fault is None else b"" for record in batch]
    found = journal.find([key for key in keys if key])
    first = {key: record for key, record in zip(reversed(keys), reversed(batch), strict=True) if key}
    missing = [key for key in dict.fromkeys(keys) if key and _is_missing(found.get(key), asked, journal)]
    copies = Counter(keys)
    if known := len(batch) - sum(copies[key] for key in missing):
        shown.advance(known)
    futures = {pool.submit(_rate, first[key], key, found.get(key), asked, journal) for key in missing}
    found |= _gather(futures, asked, shown, copies)
    count["computed"] += len(missing)
    return [found[key] if key else _unread(record) for key, record in zip(keys, batch, strict=True)]


def _unread(record: RawRecord) -> JournalEntry:
    return JournalEntry(b"", None, None, (), None, record.fault, 0.0)


def _is_missing(entry: JournalEntry | None, asked: RateRequest, journal: Journal) -> bool:
    """A failure is tried again, but once in a run."""
    if entry is None:
        return True
    if entry.error is not None:
        return entry.session != journal.session
    wanted = asked.wanted
    return wanted.rationale and entry.answer_label != wanted.label(entry.probabilities)


def _gather(
    futures: set[Future[JournalEntry]], asked: RateRequest, shown: Advancing, copies: Mapping[bytes, int]
) -> dict[bytes, JournalEntry]:
    rated: dict[bytes, JournalEntry] = {}
    failures = 0
    for future in as_completed(futures):
        entry = future.result()
        rated[entry.record] = entry
        shown.advance(copies[entry.record])
        failures = failures + 1 if entry.error is not None else 0
        if failures >= FAILURES_IN_A_ROW:
            _check_engine(asked, entry.error)
            failures = 0
    return rated


def _check_engine(asked: RateRequest, reason: str | None) -> None:
    """Rows may be at fault one after the other (too long, say); an engine that is gone must not fail a million."""
    try:
        label_probabilities(asked.engine, asked.engine.render(asked.messages(PROBE)), asked.wanted.scale, PROBE)
    except EngineError:
        raise EngineError(
            f"{FAILURES_IN_A_ROW} rows failed one after the other ({reason}); see to it and run the same command again"
        ) from None


def _rate(
    record: RawRecord, key: bytes, before: JournalEntry | None, asked: RateRequest, journal: Journal
) -> JournalEntry:
    """Rate one text and keep it; an EngineError is kept as the reason why it has no rating."""
    start = time.perf_counter()
    engine, wanted = asked.engine, asked.wanted
    override = before.override if before is not None else None
    try:
        prompt = engine.render(asked.messages(record.prompt))
        if before is not None and before.error is None:
            shares, votes = before.probabilities, before.votes  # only its reason is missing
        else:
            shares = label_probabilities(engine, prompt, wanted.scale, str(record.row))
            votes = engine.votes() if isinstance(engine, Panel) else {}
        best = likeliest(shares)
        answer, answer_label = None, None
        if wanted.rationale:
            # the reason for the label that will be written
            answer_label = wanted.label(shares)
            answer = engine.generate(rationale_prompt(prompt, answer_label), max_tokens=ANSWER_TOKENS).text
        entry = JournalEntry(
            key,
            wanted.scale.labels[best],
            wanted.scale.values[best],
            shares,
            answer,
            None,
            0.0,
            answer_label,
            votes=votes,
        )
    except EngineError as error:
        entry = JournalEntry(key, None, None, (), None, str(error), 0.0)
    entry = replace(entry, seconds=time.perf_counter() - start, session=journal.session, override=override)
    journal.put(entry)
    return entry


def _write(
    batch: Sequence[RawRecord], entries: Sequence[JournalEntry], wanted: Wanted, writer: Writer, count: Counter[str]
) -> None:
    rows = []
    for record, entry in zip(batch, entries, strict=True):
        added = cells(wanted, entry, record.prompt)
        count["rows"] += 1
        count["failed"] += entry.error is not None
        count["review"] += bool(added[REASONS])
        rows.append({**record.cells, **added})
    writer.write(rows)
