"""Queue rated rows for human review, the most useful first, each with its reasons; add a sample of the confident ones.

The sample is what shows whether "sure" can be believed: the other rows are the hard ones, and their error rate says
nothing of the rest.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError, UsageError
from ..files import csv_text, write_text
from ..ratings.cells import as_text, is_blank
from ..ratings.records import RecordFile, open_records
from ..ratings.tables import CellsByColumn
from .columns import BETWEEN, CONFIDENCE, DISAGREE, DISAGREEMENT, ERROR, FAILED, LABEL, RATING, REASONS
from .queue_key import KEY, protected, row_key
from .runner import BATCH
from .writer import BYTE_ORDER_MARK

REVIEWED, NOTE = "Reviewed_Rating", "Review_Note"
SAMPLED = "random sample of the confident ones"
SAMPLE = 0.02


@dataclass(frozen=True)
class Queue:
    """Number of `rows` to review, and of each reason (a row may have several)."""

    rows: int
    queued: int
    reasons: Mapping[str, int]
    notes: tuple[str, ...] = ()


def make_queue(rated: Path, output: Path, *, sample: float = SAMPLE, seed: int = 42, sheet: str = "") -> Queue:
    """Write the rows to review as CSV, with empty columns for the reviewer; mode 0600.

    `sample` is the share of the rows without any reason that is drawn too. Raises DatasetError for a file that
    `expertune rate` did not write, UsageError and OutputError.
    """
    if output.suffix.lower() != ".csv":
        raise UsageError(f"{output}: the review queue is a .csv file; choose another --output")
    if output.exists() and output.samefile(rated):
        raise UsageError(f"{output}: is the input itself; choose another --output")
    records, rows, reasons = queue_rows(rated, sample=sample, seed=seed, sheet=sheet)
    write_queue(output, records.columns, rows)
    return Queue(records.rows, len(rows), reasons, records.notes)


def queue_rows(
    rated: Path, *, sample: float = SAMPLE, seed: int = 42, sheet: str = ""
) -> tuple[RecordFile, list[CellsByColumn], Counter[str]]:
    """The rated file, the rows of its queue in their order, and how many have each reason. Raises as `make_queue`."""
    records = _checked(open_records(rated, sheet=sheet))
    found = {row: reasons for row, reasons in _reasons(records) if reasons}
    drawn = _sample(records, set(found), sample, seed)
    found |= {row: [SAMPLED] for row in drawn}
    rows = _most_useful_first(records, found)
    return records, rows, Counter(reason for reasons in found.values() for reason in reasons)


def _checked(records: RecordFile) -> RecordFile:
    for column in (RATING, LABEL, CONFIDENCE, REASONS, ERROR):
        if column not in records.columns:
            raise DatasetError(f'{records.path}: no column "{column}"; give a file that expertune rate has written')
    if taken := [column for column in (REVIEWED, NOTE, KEY) if column in records.columns]:
        raise DatasetError(f'{records.path}: column "{taken[0]}" is there already; give the file before its review')
    return records


def _reasons(records: RecordFile) -> list[tuple[int, list[str]]]:
    """Row numbers and reasons; a row of the file without any has an empty list."""
    return [(record.row, reasons_of(record.cells)) for batch in records.batches(BATCH) for record in batch]


def reasons_of(cells: Mapping[str, Any]) -> list[str]:
    """The reasons that the runner wrote, and disagreement where several models rated."""
    text = as_text(cells.get(REASONS)).strip()
    reasons = text.split(BETWEEN) if text else []
    differ = as_text(cells.get(DISAGREEMENT)).strip().casefold()
    return [*reasons, *([DISAGREE] if differ not in ("", "0", "false", "no") and DISAGREE not in reasons else [])]


def _sample(records: RecordFile, queued: set[int], share: float, seed: int) -> list[int]:
    """Row numbers of a random sample of rows without a reason for review."""
    if not 0 <= share <= 1:
        raise UsageError(f"--sample: {share} is not between 0 and 1")
    sure = [record.row for batch in records.batches(BATCH) for record in batch if record.row not in queued]
    return random.Random(seed).sample(sure, math.ceil(share * len(sure)))


def _most_useful_first(records: RecordFile, reasons: Mapping[int, Sequence[str]]) -> list[CellsByColumn]:
    """Rows without a rating, then those with most reasons, then the least sure; the sample comes last."""
    rows: list[tuple[tuple[float, ...], CellsByColumn]] = []
    for batch in records.batches(BATCH):
        for record in batch:
            own = reasons.get(record.row)
            if own:
                cells = {**record.cells, REASONS: BETWEEN.join(own)}
                key = (FAILED not in own, SAMPLED in own, -len(own), _confidence(record.cells), record.row)
                rows.append((key, cells))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def _confidence(cells: Mapping[str, Any]) -> float:
    try:
        return 0.0 if is_blank(cells.get(CONFIDENCE)) else float(cells[CONFIDENCE])
    except (TypeError, ValueError):
        return 0.0


def write_queue(
    output: Path,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    reviews: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """The reviewer's columns first, then what they are judged by, then the record; its key comes last.

    With a byte order mark, without which Excel does not read UTF-8. Only the record's own cells are protected.
    `reviews` fill in the reviewer's columns of each row; the key is that of the row without them.
    """
    head = (REVIEWED, NOTE, REASONS, LABEL, CONFIDENCE)
    columns = [*head, *(column for column in names if column not in head)]
    own = set(names[: names.index(RATING)])
    lines = [[*columns, KEY]]
    for row, review in zip(rows, reviews or [{}] * len(rows), strict=True):
        cells = {column: _shown(row.get(column)) for column in columns}
        written = cells | {column: protected(cells[column]) for column in columns if column in own} | dict(review)
        lines.append([*written.values(), row_key(cells)])
    write_text(output, BYTE_ORDER_MARK + csv_text(lines))


def _shown(cell: Any) -> str:
    return cell if isinstance(cell, str) else as_text(cell)
