"""CSV, JSONL and Parquet → Ratings. Every fault is a DatasetError that names file, row and column."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .scale import RatingScale
from .schema import Rating

PROMPT = ("Prompt", "formatted_prompt")
VALUE = ("Standardized_Rating",)
RATIONALE = ("Rationale of Rating",)
ROW_ID = ("Row_ID",)
PATIENT = ("C_BioSense_ID",)
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_BLANK = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat"}  # what other tools write for "nothing"
_NOTHING = ("None", "nan", "<NA>", "NaT")  # how Python, NumPy and pandas write it
_UNCLEAN = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """A file's columns and records. A record is its row's number in the file and its cells by column name.

    Numbers count as a person does: the header is row 1 and the first record row 2; in JSONL they are line numbers.
    """

    source: str
    columns: tuple[str, ...]
    records: tuple[tuple[int, Mapping[str, Any]], ...]
    notes: tuple[str, ...] = ()

    def fault(self, rows: Sequence[int], column: str | None, problem: str) -> DatasetError:
        """One line: file, rows (the first five and how many more), column, problem."""
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        where = f" row{'s' if len(rows) > 1 else ''} {shown}" if rows else ""
        return DatasetError(f"{self.source}{where}{f', column {json.dumps(column)}' if column else ''}: {problem}")

    def find(self, names: Sequence[str]) -> str | None:
        """The column that has one of the names; case, spaces and underscores do not matter."""
        for name in names:
            for column in self.columns:
                if _folded(column) == _folded(name):
                    return column
        return None

    def need(self, names: Sequence[str]) -> str:
        column = self.find(names)
        if column is None:
            wanted = " or ".join(f'"{name}"' for name in names)
            raise DatasetError(f"{self.source}: no column {wanted}; it has: {self.names()}")
        return column

    def names(self) -> str:
        """The columns for an error; without a header they would be a row's text, so long ones are not shown."""
        return ", ".join(_shown(column, 40) for column in self.columns[:30]) + (" …" if len(self.columns) > 30 else "")


def _folded(column: str) -> str:
    return re.sub(r"[\s_]+", "_", column.strip()).casefold()


def read_ratings(path: Path, scale: RatingScale, *, notes: list[str] | None = None) -> list[Rating]:
    """The rated rows of a .csv, .tsv, .jsonl or .parquet file; `notes` receives what is worth telling the user.

    Raises DatasetError for whatever makes the file unusable.
    """
    return _ratings(read_table(path), scale, notes)


def from_frame(df: Any, scale: RatingScale, source: str, *, notes: list[str] | None = None) -> list[Rating]:
    """The rated rows of a pandas DataFrame; rows count from 2, as if it had been written as CSV."""
    columns = tuple(str(column) for column in df.columns)
    records = zip(*(df.iloc[:, i].tolist() for i in range(len(columns))), strict=True) if columns else ()
    table = Table(
        source,
        columns,
        tuple((i, dict(zip(columns, record, strict=True))) for i, record in enumerate(records, start=2)),
    )
    return _ratings(_checked(table), scale, notes)


def read_table(path: Path) -> Table:
    """A file's columns and records, before any meaning is given to them. Raises DatasetError."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DatasetError(f"{path}: {suffix or 'a file without suffix'} is not supported; give {', '.join(SUFFIXES)}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    if not content.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DatasetError(f"{path}: the file is empty; export it again")
    if suffix == ".parquet":
        return _checked(_parquet(str(path), content))
    text, note = _decode(str(path), content)
    columns, records = _jsonl(str(path), text) if suffix == ".jsonl" else _csv(str(path), text)
    return _checked(Table(str(path), columns, records, note))


def _decode(source: str, content: bytes) -> tuple[str, tuple[str, ...]]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text, note = content.decode("utf-16", errors="replace"), (f"{source}: read as UTF-16",)
    else:
        try:
            text, note = content.decode("utf-8-sig"), ()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            note = (f"{source}: not UTF-8 (line {line}); read as Windows-1252, check the accents",)
            # five bytes have no meaning in Windows-1252; Latin-1 gives every byte one
            try:
                text = content.decode("cp1252")
            except UnicodeDecodeError:
                text = content.decode("latin-1")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(f"{source} line {line}: a NUL byte; the file is damaged or no text, export it again")
    return text, note


def _csv(source: str, text: str) -> tuple[tuple[str, ...], tuple[tuple[int, dict[str, str]], ...]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long chart
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    records: list[tuple[int, dict[str, str]]] = []
    columns: tuple[str, ...] = ()
    row = 0
    while True:
        row += 1
        try:
            cells = next(reader)
        except StopIteration:
            return columns, tuple(records)
        except csv.Error as error:
            raise DatasetError(
                f"{source} row {row} (near line {reader.line_num}): broken CSV ({error}); check its quotation marks"
            ) from None
        if not columns:
            columns = tuple(cell.strip() for cell in cells)
        elif cells:
            if len(cells) != len(columns):
                raise DatasetError(
                    f"{source} row {row}: {len(cells)} cells where the header has {len(columns)}; "
                    "check its quotation marks and separators"
                )
            records.append((row, dict(zip(columns, cells, strict=True))))


def _delimiter(text: str) -> str:
    """The separator under which the header shows most of our columns, then most columns."""
    ours = {_folded(name) for name in (*PROMPT, *VALUE, *RATIONALE, *ROW_ID, *PATIENT)}

    def score(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader(io.StringIO(text.lstrip()[:100_000], newline=""), delimiter=delimiter), [])
        return sum(_folded(cell) in ours for cell in cells), len(cells)

    return max(",;\t", key=score)


def _jsonl(source: str, text: str) -> tuple[tuple[str, ...], tuple[tuple[int, dict[str, Any]], ...]]:
    records = []
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DatasetError(f"{source} row {row}: no valid JSON{where}; each line must be one object") from None
        if not isinstance(record, dict):
            raise DatasetError(f"{source} row {row}: {type(record).__name__}, not an object; correct the line")
        records.append((row, record))
    return tuple(dict.fromkeys(column for _, record in records for column in record)), tuple(records)


def _parquet(source: str, content: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        columns = tuple(table.column_names)
        if len(set(columns)) == len(columns):  # to_pylist would merge them
            return Table(source, columns, tuple(enumerate(table.to_pylist(), start=2)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{source}: no readable Parquet file ({type(error).__name__}); export it again") from None
    return Table(source, columns, ())


def _checked(table: Table) -> Table:
    twice = [column for column, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise DatasetError(f'{table.source}: column "{_shown(twice[0], 40)}" is there twice; rename or remove one')
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
    ids, by_row = _ids(table, row_id)
    if notes is not None:
        notes.extend((*table.notes, *by_row))
    used = {prompt, value, rationale, patient, *(() if by_row else (row_id,))}
    return [
        Rating(
            id=ids[i],
            row=row,
            prompt=as_text(cells[prompt]),
            value=values[i],
            label=scale.label_of(values[i]),
            rationale=filled(cells, rationale),
            group=filled(cells, patient) or None,
            # a repeated Row_ID still says which rows belong together: kept under its canonical name
            extra={
                ROW_ID[0] if column == row_id else column: as_text(cells.get(column))
                for column in table.columns
                if column not in used
            },
        )
        for i, (row, cells) in enumerate(table.records)
    ]


def check_text(table: Table, column: str, *, needed: bool = True) -> None:
    """Raises DatasetError for cells that are blank (where needed), no text, or hold what no text may hold."""
    cells = [(row, record.get(column)) for row, record in table.records]
    faults = (
        (lambda cell: needed and is_blank(cell), "is blank; fill it in or remove the row"),
        (lambda cell: isinstance(cell, (list, dict, bytes)), "is no text; write it as one text"),
        (lambda cell: isinstance(cell, str) and _UNCLEAN.search(cell), "holds a NUL or broken character; remove it"),
    )
    for is_fault, problem in faults:
        rows = [row for row, cell in cells if is_fault(cell)]
        if rows:
            raise table.fault(rows, column, problem)


def rating_values(table: Table, column: str, scale: RatingScale, *, raw: bool = False) -> list[int]:
    """The value of every record. Raises DatasetError that lists the values outside the mapping and their rows."""
    cells = [(row, record.get(column)) for row, record in table.records]
    blank = [row for row, cell in cells if is_blank(cell)]
    if blank:
        raise table.fault(blank, column, "no rating; rate the row or remove it")
    values = [scale.standardize(cell) if raw else scale.value_of(cell) for _, cell in cells]
    outside = [(row, cell) for (row, cell), value in zip(cells, values, strict=True) if value is None]
    if outside:
        seen = list(dict.fromkeys(_shown(cell) for _, cell in outside))
        named = ", ".join(seen[:5]) + (" …" if len(seen) > 5 else "")
        raise table.fault(
            [row for row, _ in outside],
            column,
            f"{named} {'are' if len(seen) > 1 else 'is'} not one of {scale.describe()} "
            "(add it to the mapping or correct the row)",
        )
    return [value for value in values if value is not None]


def _shown(cell: Any, most: int = 24) -> str:
    """A value as an error may show it: a long text is likely a shifted cell, and rows' text is never shown."""
    text = as_text(cell)
    return text if len(text) <= most and text.isprintable() else f"a text of {len(text)} characters"


def _ids(table: Table, column: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Ids of the records, and a note where Row_ID is there but cannot be used."""
    rows = [str(row) for row, _ in table.records]
    if column is None:
        return rows, ()
    ids = [filled(record, column) for _, record in table.records]
    if all(ids) and len(set(ids)) == len(ids):
        return ids, ()
    problem = "is not unique" if all(ids) else "is blank in some rows"
    return rows, (f"{table.source}: {column} {problem}; row numbers are used as ids",)


def is_blank(cell: Any) -> bool:
    return as_text(cell).strip().casefold() in _BLANK


def filled(record: Mapping[str, Any], column: str | None) -> str:
    """A cell as stripped text; "" for a blank one and for a column that is not there."""
    cell = record.get(column) if column else None
    return "" if is_blank(cell) else as_text(cell).strip()


def as_text(cell: Any) -> str:
    """A cell as text: "34" for 34.0 (a whole column turns to floats where one cell is empty), "" for None and NaN."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = str(cell)
    return "" if text in _NOTHING else text
