"""Rate new records: read in batches, rated once each, journalled at once, written in the order of the input.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import EngineError, Interrupted, UsageError
from ..evaluate.rated_prevalence import RatedPrevalence, rated_prevalence
from ..files import remove_leftovers
from ..optional import installed_version
from ..predict.score import Prediction, Scorer, likeliest
from ..ratings.records import RawRecord, RecordFile, open_records
from ..ratings.tables import CellsByColumn
from .artifact import Artifact
from .codebook import codebook_path, write_codebook
from .columns import REASONS, Wanted, cells, failed_cells
from .journal import Journal, JournalEntry, record_hash
from .serve import ServedModel
from .writer import checked_output, open_output

BATCH = 256  # rows read, rated and written at a time
ANSWER_TOKENS = 160
FAILURES_IN_A_ROW = 10  # after so many the engine is tried with a probe
PROBE = "record"
_NO_TEMPLATE = (
    "; {folder} does not say how its prompts were made (by another program or an earlier version): add the column, "
    "made as in training"
)


class Advancing(Protocol):
    def advance(self, n: int = 1) -> None: ...


Stage = Callable[..., AbstractContextManager[Advancing]]  # Progress.stage


@dataclass(frozen=True)
class RateRequest:
    """A scorer and all that decides its ratings. `digest` is the sha256 of the model file.

    `workers` rows are under way at once; 0 is as many as the scorer has slots.
    """

    scorer: Scorer
    config_id: str
    seed: int
    digest: str
    wanted: Wanted
    workers: int = 0


class Counts(NamedTuple):
    """Rows of a batch or a run: `computed` were rated now, the others were in the journal or repeat a text.

    `inexact` of the computed ones have approximate probabilities.
    """

    rows: int = 0
    computed: int = 0
    failed: int = 0
    review: int = 0
    inexact: int = 0


@dataclass(frozen=True)
class Tally:
    """The counts of a run, its wall time in seconds, and what a user should know about it.

    `predicted` counts the records by the likeliest label of the model's own probabilities, as the run's evaluation
    does; `prevalence` is their share corrected by that evaluation, None where there is none.
    """

    counts: Counts
    seconds: float
    notes: tuple[str, ...] = ()
    predicted: Mapping[str, int] = field(default_factory=dict)
    prevalence: RatedPrevalence | None = None

    @property
    def rows_per_second(self) -> float:
        return self.counts.rows / self.seconds if self.seconds > 0 else 0.0


def rate_file(
    source: Path,
    output: Path,
    product: Artifact,
    served: ServedModel,
    stage: Stage,
    *,
    rationale: bool = False,
    calibrated: bool = True,
    journal: Path | None = None,
    excel: bool = False,
    sheet: str = "",
) -> Tally:
    """Rate a file with a loaded product; `journal` and a codebook are next to the output.

    `journal` may be elsewhere, `excel` marks a .csv output as UTF-8, `sheet` is that of an Excel input.

    Raises DatasetError, UsageError, OutputError, EngineError (no longer answering) and Interrupted; what was rated
    until then is kept, and the same call continues.
    """
    scorer = served.scorer
    if rationale and not scorer.explains:
        how = "a decision model or TF-IDF alone"
        raise UsageError(f"{product.folder}: its model set rates by {how}; leave out --rationale")
    votes = product.model_set is not None
    wanted = Wanted(product.scale, product.trust, calibrated=calibrated, rationale=rationale, votes=votes)
    request = RateRequest(scorer, product.config_id, product.seed, served.digest, wanted, workers=served.workers)
    checked_output(output, source, excel=excel)
    checked_output(codebook_path(output), source)
    with Journal(journal or output.with_name(f"{output.name}.journal.sqlite")) as kept:
        remove_leftovers(output.parent, codebook_path(output).name)
        with stage("Reading the records"):
            records = open_records(
                source, product.template, remedy=_NO_TEMPLATE.format(folder=product.folder), sheet=sheet
            )
        tally = rate_records(records, output, request, kept, stage, excel=excel)
    codebook = write_codebook(output, records, wanted, excel=excel or output.suffix.lower() == ".xlsx")
    notes = [*records.notes, *scorer.notes(), *product.trust.notes(), f"{codebook}: what the columns mean"]
    if not calibrated:
        notes.append("calibration was switched off")
    if inexact := tally.counts.inexact:
        notes.append(f"{inexact:,} rows: the server did not show every label's tokens, so their shares are approximate")
    found = product.evaluation and rated_prevalence(product.evaluation, tally.predicted, product.seed)
    if found is not None:
        notes.append(found.note)
    return replace(tally, notes=tuple(notes), prevalence=found)


def rate_records(
    records: RecordFile, output: Path, request: RateRequest, journal: Journal, stage: Stage, *, excel: bool = False
) -> Tally:
    """Rate the records and write them to `output`. Raises as `rate_file`."""
    added = records.made | request.wanted.columns()
    if taken := [column for column in added if column in records.columns]:
        raise UsageError(f'{records.path}: column "{taken[0]}" is there already; rename or remove it')
    _begin(request, journal)
    start, total = time.perf_counter(), Counts()
    predicted: Counter[str] = Counter()
    try:
        with (
            open_output(output, records, added, excel=excel) as writer,
            stage("Rating", total=records.rows, unit="rows") as shown,
            _pool(request.workers or request.scorer.slots) as pool,
        ):
            for batch in records.batches(BATCH):
                rated = _rate_batch(batch, request, journal, pool, shown)
                rows = _output_rows(batch, rated.entries, request.wanted)
                writer.write(rows)
                total = Counts(*map(sum, zip(total, _count(rows, rated), strict=True)))
                predicted.update(entry.label for entry in rated.entries if entry is not None and entry.label)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped after {total.rows:,} of {records.rows:,} rows; the same command goes on") from None
    return Tally(total, time.perf_counter() - start, predicted=predicted)


def _begin(request: RateRequest, journal: Journal) -> None:
    """Open the session; how the engine renders a prompt (template, place of the system text) decides a rating too."""
    scorer = request.scorer
    facts = f"{request.config_id}\n{scorer.name}\n{scorer.render(PROBE)}"
    journal.begin(
        config=hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest(),
        model=request.digest,
        engine=scorer.name,
        options={"slots": scorer.slots, "temperature": 0, "answer_tokens": ANSWER_TOKENS},
        seed=request.seed,
        versions={"expertune": installed_version("expertune"), **scorer.describe()},
    )


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """After an error or Ctrl-C no further row is begun; those under way end and are kept."""
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="rate")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class RatedBatch:
    """An entry for each record of a batch, None for one that could not be read; and the entries computed now."""

    entries: tuple[JournalEntry | None, ...]
    computed: tuple[JournalEntry, ...]


def _rate_batch(
    batch: Sequence[RawRecord], request: RateRequest, journal: Journal, pool: ThreadPoolExecutor, shown: Advancing
) -> RatedBatch:
    """Rate the texts that the journal lacks, each once however often it occurs."""
    keys = [record_hash(record.prompt) if record.fault is None else None for record in batch]
    prompts = {key: record.prompt for key, record in zip(keys, batch, strict=True) if key is not None}
    known = journal.find(list(prompts))
    missing = [key for key in prompts if _is_missing(known.get(key), request, journal)]
    copies = Counter(keys)
    if ready := len(batch) - sum(copies[key] for key in missing):
        shown.advance(ready)
    futures = {pool.submit(_rate, key, prompts[key], known.get(key), request, journal) for key in missing}
    computed = _gather(futures, request, shown, copies)
    entries = known | {entry.record: entry for entry in computed}
    return RatedBatch(tuple(None if key is None else entries[key] for key in keys), computed)


def _is_missing(entry: JournalEntry | None, request: RateRequest, journal: Journal) -> bool:
    """A failure is tried again, but once in a run."""
    if entry is None:
        return True
    if entry.error is not None:
        return entry.session != journal.session
    wanted = request.wanted
    return wanted.rationale and entry.answer_label != wanted.label(entry.probabilities)


def _gather(
    futures: set[Future[JournalEntry]], request: RateRequest, shown: Advancing, copies: Mapping[bytes | None, int]
) -> tuple[JournalEntry, ...]:
    rated: list[JournalEntry] = []
    failures = 0
    for future in as_completed(futures):
        entry = future.result()
        rated.append(entry)
        shown.advance(copies[entry.record])
        failures = failures + 1 if entry.error is not None else 0
        if failures >= FAILURES_IN_A_ROW:
            _check_engine(request.scorer, entry.error)
            failures = 0
    return tuple(rated)


def _check_engine(scorer: Scorer, reason: str | None) -> None:
    """Rows may fail one after the other (too long, say); an engine that is gone must not fail a million."""
    try:
        scorer.score(PROBE)
    except EngineError:
        raise EngineError(
            f"{FAILURES_IN_A_ROW} rows failed one after the other ({reason}); see to it and run the same command again"
        ) from None


def _rate(key: bytes, prompt: str, before: JournalEntry | None, request: RateRequest, journal: Journal) -> JournalEntry:
    """Rate one text and keep it; an EngineError is kept as the reason why it has no rating."""
    start, scale = time.perf_counter(), request.wanted.scale
    override = before.override if before is not None else None
    try:
        if before is not None and before.error is None:  # only its reason is missing
            prediction = Prediction(before.probabilities, before.votes)
        else:
            prediction = request.scorer.score(prompt)
        answer_label, answer = _explain(prompt, prediction, request)
    except EngineError as error:
        seconds = time.perf_counter() - start
        entry = JournalEntry(record=key, session=journal.session, seconds=seconds, error=str(error), override=override)
    else:
        best = likeliest(prediction.probabilities)
        entry = JournalEntry(
            record=key,
            session=journal.session,
            seconds=time.perf_counter() - start,
            label=scale.labels[best],
            value=scale.values[best],
            probabilities=prediction.probabilities,
            votes=prediction.votes,
            exact=prediction.exact,
            answer=answer,
            answer_label=answer_label,
            override=override,
        )
    journal.put(entry)
    return entry


def _explain(prompt: str, prediction: Prediction, request: RateRequest) -> tuple[str | None, str | None]:
    """The label that will be written and the model's words after it; None where no reason is wanted."""
    if not request.wanted.rationale:
        return None, None
    label = request.wanted.label(prediction.probabilities)
    return label, request.scorer.explain(prompt, label, max_tokens=ANSWER_TOKENS)


def _output_rows(
    batch: Sequence[RawRecord], entries: Sequence[JournalEntry | None], wanted: Wanted
) -> list[CellsByColumn]:
    """The records' own cells and the added ones."""
    added = (
        failed_cells(wanted, record.fault or "") if entry is None else cells(wanted, entry, record.prompt)
        for record, entry in zip(batch, entries, strict=True)
    )
    return [{**record.cells, **own} for record, own in zip(batch, added, strict=True)]


def _count(rows: Sequence[Mapping[str, Any]], rated: RatedBatch) -> Counts:
    return Counts(
        rows=len(rows),
        computed=len(rated.computed),
        failed=sum(entry is None or entry.error is not None for entry in rated.entries),
        review=sum(bool(row[REASONS]) for row in rows),
        inexact=sum(not entry.exact for entry in rated.computed),
    )
