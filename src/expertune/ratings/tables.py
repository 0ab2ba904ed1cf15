"""Read CSV, TSV, Excel, JSON Lines and Parquet row by row: memory does not grow with the number of rows.

Rows are numbered as a person counts them: the header is row 1 and the first record row 2; in Excel, the sheet's own
numbers; in JSON Lines, line numbers.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DatasetError, UsageError
from .cells import as_text, for_error
from .columns import ROLES, folded
from .encoding import find_encoding
from .excel import OTHER_FORMATS, find_sheet, sheet_rows

SUFFIXES = (".csv", ".tsv", ".xlsx", ".jsonl", ".parquet")
BATCH_ROWS = 1024  # rows of a Parquet file in memory at a time
_HEAD = 100_000  # characters in which the delimiter is sought
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?(?:\n|\Z)', re.IGNORECASE)  # a first line for Excel that names the delimiter

CellsByColumn = dict[str, Any]
Row = tuple[int, CellsByColumn]  # with the row number


@dataclass(frozen=True)
class TableFile:
    """A table on disk whose format is known. Every call of `rows` reads it from the start.

    `columns` are those of the header, empty for JSON Lines, which has none. `nul_line` is the first line of a text file
    that contains a NUL byte. `encoding`, `delimiter` and `sheet` (of Excel) are empty where the format has none.
    `row_count` is known only for Parquet before reading, as are the columns' `types`. `notes` are for the user.
    """

    path: Path
    columns: tuple[str, ...] = ()
    encoding: str = ""
    delimiter: str = ""
    sheet: str = ""
    nul_line: int | None = None
    row_count: int | None = None
    types: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layout(self) -> tuple[str, list[tuple[str, str]]]:
        """The format and the columns in alphabetical order: equal for files that can be read as one."""
        return self.path.suffix.lower(), sorted(zip(self.columns, self.types or self.columns, strict=True))

    def rows(self, batch_rows: int = BATCH_ROWS) -> Iterator[Row]:
        """Yield the rows in order. Raises DatasetError for a broken row."""
        with _file_errors(self.path):
            if self.path.suffix.lower() == ".parquet":
                yield from _parquet_rows(self.path, batch_rows)
            elif self.path.suffix.lower() == ".jsonl":
                yield from _jsonl_rows(self.path, self.encoding)
            else:
                yield from _named_rows(self)


def record_files(source: Path) -> tuple[Path, ...]:
    """The file itself; of a folder, or of a pattern such as visits/*.parquet, the files that can be read, by name.

    Raises DatasetError where there is none.
    """
    if source.is_dir():
        found = source.iterdir()
    elif source.exists() or not glob.has_magic(str(source)):
        return (source,)
    else:
        found = map(Path, glob.iglob(str(source), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(each for each in found if each.suffix.lower() in SUFFIXES and each.name[0] not in "._")
    if not files:
        raise DatasetError(f"{source}: no {', '.join(SUFFIXES)} file there; check the path")
    return tuple(files)


def open_table(path: Path, sheet: str = "") -> TableFile:
    """Find the encoding, delimiter, sheet and header of a table in one of the formats SUFFIXES.

    Raises DatasetError for a file that is missing, unreadable, empty or of another format, and for duplicate columns;
    UsageError for a `sheet` that is not there.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise DatasetError(f"{path}: {suffix} is not supported; save it as .xlsx or .csv in Excel")
    if suffix not in SUFFIXES:
        raise DatasetError(f"{path}: {suffix or 'a file without suffix'} is not supported; give {', '.join(SUFFIXES)}")
    if sheet and suffix != ".xlsx":
        raise UsageError(f"--sheet: {path} has no sheets; leave it out")
    with _file_errors(path):
        with open(path, "rb") as file:
            if not file.read(1):
                raise _empty(path)
        if suffix == ".parquet":
            return _open_parquet(path)
        if suffix == ".xlsx":
            name, notes = find_sheet(path, sheet)
            return _with_header(TableFile(path, sheet=name, notes=notes))
        return _open_text(path)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into DatasetError."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def _empty(path: Path) -> DatasetError:
    return DatasetError(f"{path}: the file is empty; export it again")


def check_unique(source: str, columns: Sequence[str]) -> None:
    """Raise DatasetError for a column name that occurs more than once."""
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DatasetError(f'{source}: duplicate column "{for_error(repeated[0], 40)}"; rename or remove one')


# Text files


def _open_text(path: Path) -> TableFile:
    encoding, decoding, notes = find_encoding(path)
    if decoding.blank:
        raise _empty(path)
    if path.suffix.lower() == ".jsonl":
        return TableFile(path, encoding=encoding, nul_line=decoding.nul_line, notes=notes)
    with open(path, encoding=encoding, newline="") as file:
        delimiter = _find_delimiter(file.read(_HEAD))
    return _with_header(TableFile(path, (), encoding, delimiter, nul_line=decoding.nul_line, notes=notes))


# Tables with a header: CSV, TSV and Excel


def _lines(table: TableFile) -> Iterator[tuple[int, list[Any]]]:
    """Numbered rows without the blank ones; the first is the header."""
    return sheet_rows(table.path, table.sheet) if table.sheet else _csv_lines(table)


def _with_header(table: TableFile) -> TableFile:
    """Read the columns; those at the end of a table that have neither a name nor a cell are left out."""
    lines = _lines(table)
    _, header = next(lines, (0, None))
    if header is None:
        where = f'{table.path}: sheet "{table.sheet}"' if table.sheet else f"{table.path}: the file"
        raise DatasetError(f"{where} is empty; move the sheet with the records to the front or export it again")
    names = [as_text(cell).strip() for cell in header]
    width, longest = _width(names), len(header)
    # a text file whose columns all have names is not read through: its first record shows what follows them
    for _, cells in lines if table.sheet or width < longest else islice(lines, 1):
        width, longest = max(width, _width(cells)), max(longest, len(cells))
    width = width if table.sheet else min(width, len(header))
    columns = (*names, *[""] * (width - len(names)))[:width]
    if columns.count("") > 1:
        places = ", ".join(str(place) for place, name in enumerate(columns, start=1) if not name)
        raise DatasetError(f"{table.path}: columns {places} have no name; name them in the header or clear them")
    check_unique(str(table.path), columns)
    left_out = longest - width
    note = f"{table.path}: {left_out} empty column{'s' if left_out > 1 else ''} at the end left out"
    return replace(table, columns=tuple(columns), notes=(*table.notes, *([note] if left_out else [])))


def _width(cells: Sequence[Any]) -> int:
    """The number of cells up to the last one that is not blank."""
    filled = (place for place, cell in enumerate(cells, start=1) if cell is not None and str(cell).strip())
    return max(filled, default=0)


def _named_rows(table: TableFile) -> Iterator[Row]:
    lines, width = _lines(table), len(table.columns)
    next(lines, None)  # the header
    for row, cells in lines:
        if table.sheet:  # rows of a sheet end with their last cell
            cells += [None] * (width - len(cells))
        elif len(cells) > width and _width(cells) <= width:
            cells = cells[:width]
        if len(cells) != width:
            raise DatasetError(
                f"{table.path} row {row}: {len(cells)} cells where the header has {width}; "
                "check its quotation marks and separators"
            )
        yield row, dict(zip(table.columns, cells, strict=True))


# CSV and TSV


def _find_delimiter(head: str) -> str:
    """The delimiter that the file names, else the one under which the header has most of our columns, then columns."""
    if named := _SEPARATOR.match(head):
        return named[1]
    ours = {folded(name) for names in ROLES.values() for name in names}
    head = head.lstrip().replace("\0", "")  # csv of Python 3.10 refuses NUL

    def score(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        return sum(folded(cell) in ours for cell in cells), len(cells)

    return max(",;\t", key=score)


def _csv_lines(table: TableFile) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long chart
    with open(table.path, encoding=table.encoding, newline="") as file:
        hidden = bool(_SEPARATOR.fullmatch(file.readline()))  # Excel does not show this line, so it has no number
        if not hidden:
            file.seek(0)
        reader = csv.reader(file, delimiter=table.delimiter, strict=True)
        row = 0
        while True:
            row += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DatasetError(
                    f"{table.path} row {row} (near line {reader.line_num + hidden}): broken CSV ({error}); check its "
                    "quotation marks"
                ) from None
            if cells:
                yield row, cells


# JSON Lines


def _jsonl_rows(path: Path, encoding: str) -> Iterator[Row]:
    with open(path, encoding=encoding, newline="\n") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: also a number of over 4,300 digits
                where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                raise DatasetError(f"{path} row {row}: invalid JSON{where}; each line must be one object") from None
            if not isinstance(cells, dict):
                raise DatasetError(f"{path} row {row}: {type(cells).__name__}, not an object; correct the line")
            yield row, cells


# Parquet


def _open_parquet(path: Path) -> TableFile:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, row_count = file.schema_arrow, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path}: invalid Parquet file ({type(error).__name__}); export it again") from None
    check_unique(str(path), schema.names)
    return TableFile(path, tuple(schema.names), row_count=row_count, types=tuple(map(str, schema.types)))


def _exact(batch: Any) -> Any:
    """The batch with 32-bit numbers as they are written: 0.1, where their 64 bits would be 0.10000000149011612."""
    import pyarrow

    columns = [
        column.cast(pyarrow.string()).cast(pyarrow.float64()) if pyarrow.types.is_float32(column.type) else column
        for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _parquet_rows(path: Path, batch_rows: int) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    row = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_rows):
                for cells in _exact(batch).to_pylist():
                    row += 1
                    yield row, cells
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path} after row {row}: damaged ({type(error).__name__}); export it again") from None
