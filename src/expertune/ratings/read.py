"""Read rated files into Ratings.

Every fault is a DatasetError that names file, row and column.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .cells import BROKEN_TEXT, as_text, filled, for_error, identifier, is_blank
from .columns import ADJUDICATED, ROW_ID, VALUE, Columns, find_column, find_columns, listed
from .experts import ExpertRatings
from .prompts import PromptTemplate, make_template, recover_template
from .scale import RatingScale
from .schema import Rating
from .tables import Row, check_unique, open_table


@dataclass(frozen=True)
class Table:
    """The columns and records of a file in memory. A record is its row number and its cells by column name.

    `id_column` has the user's own ids, which errors show next to the row numbers.
    """

    source: str
    columns: tuple[str, ...]
    records: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    id_column: str | None = None

    def fault(self, rows: Sequence[int], column: str | None, problem: str) -> DatasetError:
        """Make an error of one line: file, rows (the first five and how many more) and ids, column, problem."""
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        where = f" row{'s' if len(rows) > 1 else ''} {shown}" if rows else ""
        where += f", column {json.dumps(column)}" if column else ""
        return DatasetError(f"{self.source}{where}: {problem}{self._ids(rows[:5])}")

    def _ids(self, rows: Sequence[int]) -> str:
        cells = dict(self.records) if self.id_column else {}
        ids = [for_error(identifier(cells[row], self.id_column)) for row in rows if row in cells]
        return f" ({self.id_column} {', '.join(ids)})" if any(ids) else ""

    def find(self, names: Sequence[str]) -> str | None:
        """Return the column that has one of the names."""
        return find_column(self.columns, names)

    def need(self, names: Sequence[str], remedy: str = "") -> str:
        """Return the column that has one of the names. Raises DatasetError if there is none."""
        column = self.find(names)
        if column is None:
            wanted = " or ".join(f'"{name}"' for name in names)
            raise DatasetError(f"{self.source}: no column {wanted}; it has: {listed(self.columns)}{remedy}")
        return column


@dataclass(frozen=True)
class RatedFile:
    """The rated records of a file: which columns they come from, and with which template their prompts were made.

    `template` is None if the file has prompts that were made otherwise. `notes` are messages for the user. `experts`
    has the ratings of several experts, of which `ratings` are the records with a kept label.
    """

    ratings: tuple[Rating, ...]
    columns: Columns
    template: PromptTemplate | None = None
    notes: tuple[str, ...] = ()
    experts: ExpertRatings | None = None


def read_ratings(path: Path, scale: RatingScale, *, notes: list[str] | None = None) -> list[Rating]:
    """Read the rated rows of a file; `notes` receives messages for the user.

    Raises DatasetError for every fault that makes the file unusable.
    """
    found = rated_records(read_table(path), scale)
    if notes is not None:
        notes.extend(found.notes)
    return list(found.ratings)


def frame_table(df: Any, source: str) -> Table:
    """Convert a pandas DataFrame; rows count from 2, as if it had been written as CSV. Raises DatasetError."""
    columns = tuple(str(column) for column in df.columns)
    check_unique(source, columns)
    cells = zip(*(_cells(df.iloc[:, i]) for i in range(len(columns))), strict=True) if columns else ()
    records = tuple((row, dict(zip(columns, record, strict=True))) for row, record in enumerate(cells, start=2))
    return _with_rows(Table(source, columns, records))


def _cells(column: Any) -> list[Any]:
    """The cells of a pandas column; tolist alone would give 0.10000000149011612 for a 32-bit 0.1."""
    if str(column.dtype).casefold() not in ("float16", "float32", "halffloat[pyarrow]", "float[pyarrow]"):
        return column.tolist()
    narrow = "float16" if "16" in str(column.dtype) or "half" in str(column.dtype) else "float32"
    return column.to_numpy(dtype=narrow, na_value=float("nan")).astype(str).astype(float).tolist()


def read_table(path: Path, sheet: str = "") -> Table:
    """Read a whole file as columns and records, without interpreting them. Raises as `open_table`."""
    table = open_table(path, sheet)
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


def rated_records(table: Table, scale: RatingScale, *, topics: str = "", choices: Sequence[str] = ()) -> RatedFile:
    """Interpret the rows of a formatted file, or of a raw one, whose prompts are then made for these topics.

    `choices` are "ROLE=NAME" (columns.py). Raises DatasetError, and UsageError for choices that cannot be.
    """
    columns = find_columns(table.source, table.columns, choices)
    table = replace(table, id_column=columns.get("id"))
    if not columns.text:
        columns.need("prompt")
    several, patient = bool(columns.experts), columns.get("patient")
    column = "" if several else columns.need("rating")
    prompts, template = _prompts(table, columns, scale, topics)
    if several:
        from .adjudicated import read_experts  # which reads tables too

        experts = read_experts(table, columns, scale, prompts)
        values, rationales = experts.kept(), experts.kept_rationales()
    else:
        experts, (values, rationales) = None, _of_one_expert(table, columns, column, scale)
    ids, id_notes = record_ids(table, columns.get("id"))
    # of several experts the label is worked out, so what `expertune format` wrote of it is no further column
    used = {*columns.used(), *((VALUE[0], ADJUDICATED) if several else ())}
    ratings = tuple(
        Rating(
            id=ids[i],
            row=row,
            prompt=prompts[i],
            value=value,
            label=scale.label_of(value),
            rationale=rationales[i],
            group=identifier(cells, patient) or None,
            extra={
                **{column: as_text(cells.get(column)) for column in table.columns if column not in used},
                # a repeated Row_ID still shows which rows belong together: kept under its canonical name
                **({ROW_ID[0]: identifier(cells, columns.get("id"))} if id_notes else {}),
            },
        )
        for i, (row, cells) in enumerate(table.records)
        if (value := values[i]) is not None
    )
    notes = (*table.notes, *id_notes, *(experts.tied_note() if experts else ()))
    return RatedFile(ratings, columns, template, notes, experts)


def _of_one_expert(
    table: Table, columns: Columns, column: str, scale: RatingScale
) -> tuple[Sequence[int | None], list[str]]:
    """The ratings and rationales of the records. Raises DatasetError."""
    rationale = columns.get("rationale")
    if rationale:
        check_text(table, rationale, needed=False)
    values = rating_values(table, column, scale, raw=columns.in_codes(column))
    return values, [filled(cells, rationale) for _, cells in table.records]


def _prompts(
    table: Table, columns: Columns, scale: RatingScale, topics: str
) -> tuple[list[str], PromptTemplate | None]:
    """The prompts of the file, or those made from its text columns; and their template, if it is known."""
    records = [cells for _, cells in table.records]
    if not columns.text:
        prompt = columns.need("prompt")
        check_text(table, prompt)
        prompts = [as_text(cells[prompt]) for cells in records]
        return prompts, recover_template(prompts, records, [name for name in table.columns if name != prompt])
    template = make_template(columns.text, scale, topics)
    return make_prompts(table, template), template


def make_prompts(table: Table, template: PromptTemplate) -> list[str]:
    """Make the prompt of each record. Raises DatasetError for records from which none can be made."""
    columns = [field.column for field in template.fields]
    for column in columns:
        check_text(table, column, needed=False)
    empty = [row for row, cells in table.records if not any(filled(cells, column) for column in columns)]
    if empty:
        raise table.fault(empty, None, f"{', '.join(columns)} are all blank; fill one in or remove the row")
    return [template.text(cells) for _, cells in table.records]


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


def record_ids(table: Table, column: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Return the ids of the records, and a note where the Row_ID column cannot be used and row numbers stand for it."""
    rows = [str(row) for row, _ in table.records]
    if column is None:
        return rows, ()
    ids = [identifier(record, column) for _, record in table.records]
    if all(ids) and len(set(ids)) == len(ids):
        return ids, ()
    problem = "is not unique" if all(ids) else "is blank in some rows"
    return rows, (f"{table.source}: {column} {problem}; row numbers are used as ids",)
