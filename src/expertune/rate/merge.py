"""Reviewed rows → rated rows of a new formatted_dataset.csv: what is there already is never overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..ratings.cells import as_text, filled, for_error, identifier, is_blank
from ..ratings.columns import PROMPT, RATIONALE, ROLES, ROW_ID, VALUE, chosen_columns, find_column, find_columns, folded
from ..ratings.normalize import words
from ..ratings.read import Table, check_text, rating_values, read_ratings, read_table
from ..ratings.records import RecordFile, open_records
from ..ratings.scale import RatingScale
from ..ratings.tables import CellsByColumn
from .journal import Journal, record_hash
from .queue_key import KEY, candidates, is_damaged, restored
from .review import NOTE, REVIEWED
from .runner import BATCH
from .writer import checked_output, open_output


@dataclass(frozen=True)
class Reviewed:
    """A row that an expert looked at. `row` is its number in the review file."""

    row: int
    prompt: str
    value: int
    note: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class MergedReview:
    """`conflicts` is a line for each reviewed row whose text is rated otherwise elsewhere, `damaged` for each whose
    cells are not those of the queue; none of them was taken."""

    added: int
    known: int
    not_reviewed: int
    renamed: int
    conflicts: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    journalled: int | None = None
    notes: tuple[str, ...] = ()


def merge_review(
    reviewed: Path,
    into: Path,
    output: Path,
    scale: RatingScale,
    *,
    journal: Path | None = None,
    choices: Sequence[str] = (),
    sheet: str = "",
) -> MergedReview:
    """Write `output`: the rows of `into` as they are, then the reviewed rows with the reviewer's rating and note.

    What a spreadsheet did to a row is mended by its key, or by `journal` where the file has no keys. `choices` name
    columns of the reviewed rows by their role ("patient=MRN"); `sheet` is that of a reviewed Excel file.
    Raises DatasetError (file, row, column) for a rating outside the mapping or a broken file, UsageError, OutputError.
    """
    checked_output(output, into)
    checked_output(output, reviewed)
    if journal is not None and not journal.is_file():
        raise UsageError(f"{journal}: no such journal; give the one of the run that rated these records")
    notes: list[str] = []
    there = {_folded(rating.prompt): (rating.row, rating.value) for rating in read_ratings(into, scale, notes=notes)}
    rows, blank = read_reviewed(reviewed, scale, choices, sheet, notes=notes)
    records = open_records(into)
    with nullcontext() if journal is None else Journal(journal) as kept:
        sources = _sources(records.columns, choices)
        rows, damaged = _mended(rows, sources, reviewed, kept)
        fresh, known, conflicts = _sorted_out(rows, there, reviewed, into)
        cells, renamed = _cells(fresh, records, sources)
        with open_output(output, records, {}) as writer:
            for batch in records.batches(BATCH):
                writer.write([record.cells for record in batch])
            writer.write(cells)
        merged = MergedReview(len(fresh), known, blank, renamed, tuple(conflicts), damaged, notes=tuple(notes))
        if kept is None:
            return merged
        return replace(merged, journalled=kept.override([(record_hash(r.prompt), r.value, r.note) for r in rows]))


def _sources(columns: Sequence[str], choices: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names that each column of the file may have in the review: its own, or those of its role."""
    chosen = chosen_columns(choices)
    roles = {
        column: (*chosen.get(role, ()), column, *names)
        for role, names in ROLES.items()
        if (column := find_column(columns, names))
    }
    return {column: roles.get(column, (column,)) for column in columns}


def _mended(
    rows: Sequence[Reviewed], sources: Mapping[str, tuple[str, ...]], reviewed: Path, journal: Journal | None
) -> tuple[list[Reviewed], tuple[str, ...]]:
    """The rows as they were queued, and a line for each that is not a row of the queue any more."""
    names = [names for column, names in sources.items() if folded(column) not in _OVERWRITTEN]
    mended, damaged = [], []
    for row in rows:
        cells = _queued_cells(row, names, journal)
        if lost := [column for column, cell in cells.items() if cell is None]:
            damaged.append(f'{reviewed} row {row.row}, column "{for_error(lost[0], 40)}": {_NOT_QUEUED}')
        else:
            mended.append(replace(row, prompt=str(next(iter(cells.values()))), cells={**row.cells, **cells}))
    return mended, tuple(damaged)


def _queued_cells(row: Reviewed, names: Sequence[tuple[str, ...]], journal: Journal | None) -> dict[str, str | None]:
    """The cells that are merged, the prompt first, as they were queued; None for a cell that cannot be known."""
    table = Table("", tuple(row.cells), ())
    key, prompt = table.find((KEY,)), table.need(PROMPT)
    if key is None:
        return {prompt: _known_text(row.prompt, journal)}
    columns = dict.fromkeys((prompt, *(column for each in names if (column := table.find(each)))))
    return {column: restored(as_text(row.cells[key]), column, as_text(row.cells[column])) for column in columns}


def _known_text(prompt: str, journal: Journal | None) -> str | None:
    """The text of a row without a key: as the journal knows it, or as it is unless it is plainly damaged."""
    if journal is not None:
        return next((each for each in candidates(prompt) if journal.has_rated(record_hash(each))), None)
    return None if is_damaged(prompt) else prompt


def read_reviewed(
    path: Path, scale: RatingScale, choices: Sequence[str] = (), sheet: str = "", *, notes: list[str]
) -> tuple[list[Reviewed], int]:
    """The rows with a reviewer's rating (a value or a label), and how many have none; `notes` are for the user.

    Raises DatasetError, also for a chosen column that is not there.
    """
    table = read_table(path, sheet)
    notes.extend(table.notes)
    find_columns(table.source, table.columns, choices)
    rating, prompt, note = table.need((REVIEWED,)), table.need(PROMPT), table.find((NOTE,))
    done = tuple(
        (row, cells)
        for row, cells in table.records
        if not is_blank(cells.get(rating)) or scale.value_of(cells.get(rating)) is not None
    )
    rated = Table(table.source, table.columns, done)
    check_text(rated, prompt, needed=False)  # a blank one is not in the queue
    values = rating_values(rated, rating, scale)
    rows = [
        Reviewed(row, as_text(cells[prompt]), value, filled(cells, note), cells)
        for (row, cells), value in zip(done, values, strict=True)
    ]
    return rows, len(table.records) - len(rows)


def _folded(prompt: str) -> str:
    """Texts that differ in case, blanks and punctuation only are one text, as in the audit."""
    return " ".join(words(prompt)) or prompt


def _sorted_out(
    rows: Sequence[Reviewed], there: Mapping[str, tuple[int, int]], reviewed: Path, into: Path
) -> tuple[list[Reviewed], int, list[str]]:
    """New rows, how many are there with the same rating, and the conflicts."""
    values: dict[str, dict[int, int]] = {}
    for row in rows:
        values.setdefault(_folded(row.prompt), {}).setdefault(row.value, row.row)
    fresh: dict[str, Reviewed] = {}
    known, conflicts = 0, []
    for row in rows:
        text = _folded(row.prompt)
        if len(values[text]) > 1:
            others = ", ".join(f"{value} in row {number}" for value, number in values[text].items())
            conflicts.append(f"{reviewed} row {row.row}: the same text is rated {others}")
        elif text in there and there[text][1] != row.value:
            number, value = there[text]
            conflicts.append(f"{reviewed} row {row.row}: rated {row.value}, but {value} in {into} row {number}")
        elif text in there or text in fresh:
            known += 1
        else:
            fresh[text] = row
    return list(fresh.values()), known, conflicts


def _cells(
    fresh: Sequence[Reviewed], records: RecordFile, sources: Mapping[str, tuple[str, ...]]
) -> tuple[list[CellsByColumn], int]:
    """New rows in the columns of the file they join; a Row_ID that is taken gets a suffix, so that ids stay unique."""
    table = Table(str(records.path), records.columns, ())
    row_id, prompt, rating, rationale = map(table.find, (ROW_ID, PROMPT, VALUE, RATIONALE))
    taken = {identifier(record.cells, row_id) for batch in records.batches(BATCH) for record in batch}
    rows, renamed = [], 0
    for row in fresh:
        source = Table("", tuple(row.cells), ())
        cells: dict[Any, Any] = {each: row.cells.get(source.find(sources[each]) or "") for each in records.columns}
        cells |= {prompt: row.prompt, rating: row.value}
        if rationale:
            cells[rationale] = row.note
        if row_id:
            wanted = identifier({row_id: cells.get(row_id)}, row_id) or f"review-{row.row}"
            number, own = 1, wanted
            while own in taken:
                number += 1
                own = f"{wanted}-{number}"
            taken.add(own)
            renamed += own != wanted
            cells[row_id] = own
        rows.append({column: cell for column, cell in cells.items() if column is not None})
    return rows, renamed


_NOT_QUEUED = "not the queued one (a spreadsheet may have changed it); rate the record in a new review.csv"
_OVERWRITTEN = {folded(name) for name in (*VALUE, *RATIONALE)}
