"""Rate new records: read in batches, rated once each, journalled at once, written in the order of the input.

records ─ batch ─► in the journal? ─ no ─► engine.slots at a time, or the workers of a Ray cluster ─► journal
                        └────────────── yes ──────────────────────────► rows ─► output
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Interrupted, UsageError
from ..evaluate.rated_prevalence import RatedPrevalence, rated_prevalence
from ..files import remove_leftovers
from ..optional import installed_version
from ..ratings.records import RawRecord, RecordFile, open_records
from ..ratings.tables import CellsByColumn, record_files
from .artifact import Artifact
from .batch import ANSWER_TOKENS, PROBE, Advancing, RatedBatch, RateRequest, rate_by_threads
from .codebook import codebook_path, write_codebook
from .columns import REASONS, Wanted, cells, failed_cells
from .journal import Journal, JournalEntry
from .parts import checked_parts, open_parts
from .serve import ServedModel
from .writer import checked_output, open_output

BATCH = 256  # rows read, rated and written at a time
_NO_TEMPLATE = (
    "; {folder} does not say how its prompts were made (by another program or an earlier version): add the column, "
    "made as in training"
)
Stage = Callable[..., AbstractContextManager[Advancing]]  # Progress.stage


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

    `predicted` counts the records by their label; `prevalence` is their share corrected by the run's evaluation, None
    where there is none.
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
    """Rate a file with a loaded product, or the files of a folder or pattern; `journal` and a codebook are next to the
    output.

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
    ways = (served.workers, served.rate_batches)
    request = RateRequest(scorer, product.config_id, product.seed, served.digest, wanted, *ways)
    files = record_files(source)
    for file in files:
        if output.suffix or excel:
            checked_output(output, file, excel=excel)
        else:
            checked_parts(output, file)
        checked_output(codebook_path(output), file)
    with Journal(journal or output.with_name(f"{output.name}.journal.sqlite")) as kept:
        remove_leftovers(output.parent, codebook_path(output).name)
        with stage("Reading the records"):
            remedy = _NO_TEMPLATE.format(folder=product.folder)
            records = open_records(files[0], product.template, remedy=remedy, sheet=sheet, further=files[1:])
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
    if output.suffix:
        opened = open_output(output, records, added, excel=excel)
    else:
        opened = open_parts(output, records, added)
    start, total, rate_batches = time.perf_counter(), Counts(), request.rate_batches or rate_by_threads
    predicted: Counter[str] = Counter()
    try:
        with (
            opened as writer,
            stage("Rating", total=records.rows, unit="rows") as shown,
            closing(rate_batches(records.batches(BATCH), request, journal, shown)) as batches,
        ):
            for batch, rated in batches:
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
