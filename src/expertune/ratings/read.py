"""Read rated files into Ratings, and open files of unrated records to read them in batches.

Every fault is a DatasetError that names file, row and column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .cells import BROKEN_TEXT, as_text, filled, for_error, identifier, is_blank
from .columns import PATIENT, PROMPT, RATIONALE, ROW_ID, VALUE, folded
from .scale import RatingScale
from .schema import Rating, UnratedRecord
from .tables import BATCH_ROWS, Row, TableFile, check_unique, open_table


@dataclass(frozen=True)
class Table:
    """The columns and records of a file in memory. A record is its row number and its cells by column name."""

    source: str
    columns: tuple[str, ...]
    records: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def fault(self, rows: Sequence[int], column: str | None, problem: str) -> DatasetError:
        """Make an error of one line: file, rows (the first five and how many more), column, problem."""
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        where = f" row{'s' if len(rows) > 1 else ''} {shown}" if rows else ""
        return DatasetError(f"{self.source}{where}{f', column {json.dumps(column)}' if column else ''}: {problem}")

    def find(self, names: Sequence[str]) -> str | None:
        """Return the column that has one of the names; case, spaces and underscores do not matter."""
        for name in names:
            for column in self.columns:
                if folded(column) == folded(name):
                    return column
        return None

    def need(self, names: Sequence[str]) -> str:
        """Return the column that has one of the names. Raises DatasetError if there is none."""
        column = self.find(names)
        if column is None:
            wanted = " or ".join(f'"{name}"' for name in names)
            raise DatasetError(f"{self.source}: no column {wanted}; it has: {self.names()}")
        return column

    def names(self) -> str:
        """List the columns for an error; without a header they would be the text of a row, so long ones are hidden."""
        return ", ".join(for_error(column, 40) for column in self.columns[:30]) + (
            " …" if len(self.columns) > 30 else ""
        )


def read_ratings(path: Path, scale: RatingScale, *, notes: list[str] | None = None) -> list[Rating]:
    """Read the rated rows of a .csv, .tsv, .jsonl or .parquet file; `notes` receives messages for the user.

    Raises DatasetError for every fault that makes the file unusable.
    """
    return _ratings(read_table(path), scale, notes)


def from_frame(df: Any, scale: RatingScale, source: str, *, notes: list[str] | None = None) -> list[Rating]:
    """Read the rated rows of a pandas DataFrame; rows count from 2, as if it had been written as CSV."""
    columns = tuple(str(column) for column in df.columns)
    check_unique(source, columns)
    cells = zip(*(df.iloc[:, i].tolist() for i in range(len(columns))), strict=True) if columns else ()
    records = tuple((row, dict(zip(columns, record, strict=True))) for row, record in enumerate(cells, start=2))
    return _ratings(_with_rows(Table(source, columns, records)), scale, notes)


def read_table(path: Path) -> Table:
    """Read a whole file as columns and records, without interpreting them. Raises DatasetError."""
    table = open_table(path)
    if table.nul_line:
        raise DatasetError(
            f"{path} line {table.nul_line}: NUL byte; the file is damaged or not a text file, export it again"
        )
    records = tuple(table.rows())
    columns = table.columns or tuple(dict.fromkeys(column for _, cells in records for column in cells))
    return _with_rows(Table(str(path), columns, records, table.notes))


def _with_rows(table: Table) -> Table:
    if not table.records:
        raise DatasetError(f"{table.source}: no rows; add rated rows below the header")
    return table


def _ratings(table: Table, scale: RatingScale, notes: list[str] | None) -> list[Rating]:
    prompt, value = table.need(PROMPT), table.need(VALUE)
    rationale, row_id, patient = table.find(RATIONALE), table.find(ROW_ID), table.find(PATIENT)
    check_text(table, prompt)
    if rationale:
        check_text(table, rationale, needed=False)
    values = rating_values(table, value, scale)
    ids, id_notes = _ids(table, row_id)
    if notes is not None:
        notes.extend((*table.notes, *id_notes))
    used = {prompt, value, rationale, patient, row_id}
    return [
        Rating(
            id=ids[i],
            row=row,
            prompt=as_text(cells[prompt]),
            value=values[i],
            label=scale.label_of(values[i]),
            rationale=filled(cells, rationale),
            group=identifier(cells, patient) or None,
            extra={
                **{column: as_text(cells.get(column)) for column in table.columns if column not in used},
                # a repeated Row_ID still shows which rows belong together: kept under its canonical name
                **({ROW_ID[0]: identifier(cells, row_id)} if row_id and id_notes else {}),
            },
        )
        for i, (row, cells) in enumerate(table.records)
    ]


def check_text(table: Table, column: str, *, needed: bool = True) -> None:
    """Raise DatasetError for cells that are blank (if needed), not strings, or contain a NUL or broken character."""
    cells = [(row, record.get(column)) for row, record in table.records]
    faults = (
        (lambda cell: needed and is_blank(cell), "is blank; fill it in or remove the row"),
        (lambda cell: isinstance(cell, (list, dict, bytes)), "is not a string; write it as one text"),
        (
            lambda cell: isinstance(cell, str) and BROKEN_TEXT.search(cell),
            "contains a NUL or broken character; remove it",
        ),
    )
    for is_fault, problem in faults:
        rows = [row for row, cell in cells if is_fault(cell)]
        if rows:
            raise table.fault(rows, column, problem)


def rating_values(table: Table, column: str, scale: RatingScale, *, raw: bool = False) -> list[int]:
    """Return the value of every record. Raises DatasetError listing the values outside the mapping and their rows."""
    cells = [(row, record.get(column)) for row, record in table.records]
    values = [scale.standardize(cell) if raw else scale.value_of(cell) for _, cell in cells]
    # a label of the mapping may be "None" or "NA"
    blank = [row for (row, cell), value in zip(cells, values, strict=True) if value is None and is_blank(cell)]
    if blank:
        raise table.fault(blank, column, "no rating; rate the row or remove it")
    outside = [(row, cell) for (row, cell), value in zip(cells, values, strict=True) if value is None]
    if outside:
        shown = list(dict.fromkeys(for_error(cell) for _, cell in outside))
        named = ", ".join(shown[:5]) + (" …" if len(shown) > 5 else "")
        raise table.fault(
            [row for row, _ in outside],
            column,
            f"{named} {'are' if len(shown) > 1 else 'is'} not one of {scale.describe()} "
            "(add it to the mapping or correct the row)",
        )
    return [value for value in values if value is not None]


def _ids(table: Table, column: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Return the ids of the records, and a note where the Row_ID column cannot be used."""
    rows = [str(row) for row, _ in table.records]
    if column is None:
        return rows, ()
    ids = [identifier(record, column) for _, record in table.records]
    if all(ids) and len(set(ids)) == len(ids):
        return ids, ()
    problem = "is not unique" if all(ids) else "is blank in some rows"
    return rows, (f"{table.source}: {column} {problem}; row numbers are used as ids",)


@dataclass(frozen=True)
class RawRecord:
    """One unrated row as it stands in the file. `fault` is the reason why it cannot be rated."""

    row: int
    cells: Mapping[str, Any]
    prompt: str
    fault: str | None = None


@dataclass(frozen=True)
class RecordFile:
    """A file of records to be rated. A text file was read through once, so that no broken row ends hours of rating.

    `rows` is the number of records, `kinds` the Python types found in each column of a JSON Lines file.
    """

    table: TableFile
    columns: tuple[str, ...]
    rows: int
    prompt: str
    kinds: Mapping[str, frozenset[type]]

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user."""
        return self.table.notes

    def batches(self, size: int) -> Iterator[list[RawRecord]]:
        """Yield all records, at most `size` at a time."""
        records = (_raw_record(row, cells, self.prompt) for row, cells in self.table.rows(size))
        while batch := list(islice(records, size)):
            yield batch


def _raw_record(row: int, cells: Mapping[str, Any], prompt: str) -> RawRecord:
    cell = cells.get(prompt)
    if is_blank(cell):
        return RawRecord(row, cells, "", "the prompt is blank")
    if not isinstance(cell, str):
        return RawRecord(row, cells, "", f"the prompt is not a string but {type(cell).__name__}")
    if BROKEN_TEXT.search(cell):
        return RawRecord(row, cells, "", "the prompt contains a NUL or broken character")
    return RawRecord(row, cells, cell)


def open_records(path: Path) -> RecordFile:
    """Describe a file of records after reading it through (Parquet: its metadata) without keeping its rows.

    Raises DatasetError (file, row, column) for every fault but a prompt that is blank or not a string: those rows get
    their reason in RawRecord.
    """
    table = open_table(path)
    rows, kinds = table.row_count, {}
    if rows is None:
        rows, kinds = _scan(table)
    if not rows:
        raise DatasetError(f"{path}: no rows; there is nothing to rate")
    columns = table.columns or tuple(kinds)
    return RecordFile(table, columns, rows, Table(str(path), columns, ()).need(PROMPT), kinds)


def read_unrated(path: Path, *, notes: list[str]) -> tuple[list[UnratedRecord], int]:
    """Read the rows of a file without their ratings, and count those without a usable prompt, which are left out.

    Raises DatasetError as `open_records`.
    """
    file = open_records(path)
    columns = Table(str(path), file.columns, ())
    row_id, patient = columns.find(ROW_ID), columns.find(PATIENT)
    rows = [row for batch in file.batches(BATCH_ROWS) for row in batch]
    notes.extend(file.notes)
    records = [
        UnratedRecord(
            id=f"unlabelled {each.row}",
            row=each.row,
            prompt=each.prompt,
            group=identifier(each.cells, patient) or None,
            extra={ROW_ID[0]: identifier(each.cells, row_id)},
        )
        for each in rows
        if each.fault is None
    ]
    return records, len(rows) - len(records)


def _scan(table: TableFile) -> tuple[int, dict[str, frozenset[type]]]:
    """Count the rows, and collect the types of each column where the file has no header (JSON Lines)."""
    rows = 0
    kinds: dict[str, set[type]] = {}
    for _, cells in table.rows():
        rows += 1
        for column, cell in cells.items() if not table.columns else ():
            kinds.setdefault(column, set()).add(type(cell))
    return rows, {column: frozenset(types) for column, types in kinds.items()}
