"""Open files of unrated records, with prompts or raw, to read them in batches: memory does not grow with their number.

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
from .cells import BROKEN_TEXT, identifier, is_blank
from .columns import PROMPT, ROLES, ROW_ID, Columns, listed
from .prompts import PromptTemplate
from .read import Table
from .schema import UnratedRecord
from .tables import BATCH_ROWS, TableFile, open_table

_NO_TEMPLATE = "; add it: the prompts of {source} were not made by expertune, so none can be made here in the same way"


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

    `rows` is the number of records, `kinds` the Python types found in each column of a JSON Lines or Excel file.
    `template` is there for raw records: their prompts are made with it and added as the column `prompt`. The records of
    `further` tables, which have the same columns, follow those of `table`.
    """

    table: TableFile
    columns: tuple[str, ...]
    rows: int
    prompt: str
    kinds: Mapping[str, frozenset[type]]
    template: PromptTemplate | None = None
    further: tuple[TableFile, ...] = ()

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user."""
        read = tuple(note for table in (self.table, *self.further) for note in table.notes)
        if self.template is None:
            return read
        used = [field.column for field in self.template.fields]
        others = [column for column in self.columns if column not in used]
        unused = f"; not used to rate: {listed(others)}" if others else ""
        return (*read, f"{self.path}: prompts made as in the run, from {listed(used)}{unused}")

    @property
    def made(self) -> dict[str, type]:
        """The columns that the file itself does not have."""
        return {} if self.template is None else {self.prompt: str}

    def batches(self, size: int) -> Iterator[list[RawRecord]]:
        """Yield all records, at most `size` at a time."""
        read = self._with_prompt if self.template is None else self._made
        tables = (self.table, *self.further)
        records = (read(row, cells) for table in tables for row, cells in table.rows(size))
        while batch := list(islice(records, size)):
            yield batch

    def _with_prompt(self, row: int, cells: Mapping[str, Any]) -> RawRecord:
        cell = cells.get(self.prompt)
        if is_blank(cell):
            return RawRecord(row, cells, "", "the prompt is blank")
        if not isinstance(cell, str):
            return RawRecord(row, cells, "", f"the prompt is not a string but {type(cell).__name__}")
        if BROKEN_TEXT.search(cell):
            return RawRecord(row, cells, "", "the prompt contains a NUL or broken character")
        return RawRecord(row, cells, cell)

    def _made(self, row: int, cells: Mapping[str, Any]) -> RawRecord:
        assert self.template is not None
        fault = self.template.fault(cells)
        prompt = "" if fault else self.template.text(cells)
        return RawRecord(row, {**cells, self.prompt: prompt}, prompt, fault)


def open_records(
    path: Path,
    template: PromptTemplate | None = None,
    *,
    prompt: Sequence[str] = PROMPT,
    remedy: str = "",
    sheet: str = "",
    further: Sequence[Path] = (),
) -> RecordFile:
    """Describe a file of records after reading it through (Parquet: its metadata) without keeping its rows.

    Without a column of one of the names `prompt`, prompts are made with `template`; `remedy` ends the error where there
    is none. `further` files of the same format and columns are read after it. Raises DatasetError (file, row, column)
    for every fault but a prompt that is blank or not a string: those rows get their reason in RawRecord.
    """
    tables = [open_table(each, sheet) for each in (path, *further)]
    rows, kinds = _scan(tables)
    if not rows:
        raise DatasetError(f"{path}: no rows; there is nothing to rate")
    columns = tables[0].columns or tuple(kinds)
    found = Table(str(path), columns, ())
    if template is None or found.find(prompt):
        return RecordFile(tables[0], columns, rows, found.need(prompt, remedy), kinds, further=tuple(tables[1:]))
    if missing := template.missing(columns):
        raise DatasetError(
            f"{path}: no column {' and '.join(map(json.dumps, missing))}, from which the run's prompts were made; it "
            f"has: {listed(columns)}; rename or add it (blank where unknown)"
        )
    return RecordFile(tables[0], columns, rows, PROMPT[0], kinds, template.for_columns(columns), tuple(tables[1:]))


def read_unrated(
    path: Path, rated: Columns, template: PromptTemplate | None, *, notes: list[str]
) -> tuple[list[UnratedRecord], int]:
    """Read the rows of a file without their ratings, and count those without a usable prompt, which are left out.

    The columns have the names of the `rated` file or common ones; prompts are made with its `template` where there are
    none. Raises DatasetError as `open_records`.
    """

    def names(role: str) -> tuple[str, ...]:
        return (*filter(None, [rated.get(role)]), *ROLES[role])

    file = open_records(path, template, prompt=names("prompt"), remedy=_NO_TEMPLATE.format(source=rated.source))
    columns = Table(str(path), file.columns, ())
    row_id, patient = columns.find(names("id")), columns.find(names("patient"))
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


def _scan(tables: Sequence[TableFile]) -> tuple[int, dict[str, frozenset[type]]]:
    """Count the rows, and collect the types of each column where the cells have types (JSON Lines, Excel)."""
    rows, first = 0, tables[0]
    kinds: dict[str, set[type]] = {}
    for table in tables:
        if table.layout != first.layout:
            raise DatasetError(
                f"{table.path}: its format or columns differ from those of {first.path}; rate it by itself"
            )
        rows += table.row_count or 0
        for _, cells in table.rows() if table.row_count is None else ():
            rows += 1
            for column, cell in cells.items() if not table.delimiter else ():
                kinds.setdefault(column, set()).add(type(cell))
    return rows, {column: frozenset(types) for column, types in kinds.items()}
