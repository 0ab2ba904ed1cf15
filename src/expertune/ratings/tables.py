"""Read CSV, TSV, JSON Lines and Parquet row by row: memory does not grow with the number of rows.

Rows are numbered as a person counts them: the header is row 1 and the first record row 2; in JSON Lines, line numbers.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .cells import for_error
from .columns import ROLES, folded

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
BATCH_ROWS = 1024  # rows of a Parquet file in memory at a time
_CHUNK = 1 << 16  # bytes decoded at a time
_HEAD = 100_000  # characters in which the delimiter is sought

Row = tuple[int, dict[str, Any]]  # row number, cells by column name


@dataclass(frozen=True)
class TableFile:
    """A table on disk whose format is known. Every call of `rows` reads it from the start.

    `columns` are those of the header, empty for JSON Lines, which has none. `nul_line` is the first line of a text file
    that contains a NUL byte. `encoding` and `delimiter` are empty where the format has none. `row_count` is known
    only for Parquet before reading. `notes` are for the user.
    """

    path: Path
    columns: tuple[str, ...] = ()
    encoding: str = ""
    delimiter: str = ""
    nul_line: int | None = None
    row_count: int | None = None
    notes: tuple[str, ...] = ()

    def rows(self, batch_rows: int = BATCH_ROWS) -> Iterator[Row]:
        """Yield the rows in order. Raises DatasetError for a broken row."""
        with _file_errors(self.path):
            if self.path.suffix.lower() == ".parquet":
                yield from _parquet_rows(self.path, batch_rows)
            elif self.path.suffix.lower() == ".jsonl":
                yield from _jsonl_rows(self.path, self.encoding)
            else:
                yield from _csv_rows(self)


def open_table(path: Path) -> TableFile:
    """Find the encoding, delimiter and header of a .csv, .tsv, .jsonl or .parquet file.

    Raises DatasetError for a file that is missing, unreadable, empty or of another format, and for duplicate columns.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DatasetError(f"{path}: {suffix or 'a file without suffix'} is not supported; give {', '.join(SUFFIXES)}")
    with _file_errors(path):
        with open(path, "rb") as file:
            if not file.read(1):
                raise _empty(path)
        if suffix == ".parquet":
            return _open_parquet(path)
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


# Text files: encoding


@dataclass(frozen=True)
class _Decoding:
    """Result of decoding a whole file: the lines (from 1) of the first invalid byte and of the first NUL, if any."""

    invalid_line: int | None = None
    nul_line: int | None = None
    blank: bool = True


def _decode(path: Path, encoding: str) -> _Decoding:
    """Decode the file in chunks, up to the first invalid byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, nul_line, blank, more = 1, None, True, True
    with open(path, "rb") as file:
        while more:
            chunk = file.read(_CHUNK)
            more = bool(chunk)
            try:
                text = decoder.decode(chunk, final=not more)
            except UnicodeDecodeError as error:
                return _Decoding(invalid_line=line + error.object.count(b"\n", 0, error.start))
            if nul_line is None and "\0" in text:
                nul_line = line + text.count("\n", 0, text.index("\0"))
            line += text.count("\n")
            blank = blank and not text.strip()
    return _Decoding(nul_line=nul_line, blank=blank)


def _find_encoding(path: Path) -> tuple[str, _Decoding, tuple[str, ...]]:
    """The encoding under which the whole file can be decoded, and a note where it is not UTF-8."""
    with open(path, "rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        decoding = _decode(path, "utf-16")
        if decoding.invalid_line:
            raise DatasetError(f"{path}: broken UTF-16; save the file as UTF-8")
        return "utf-16", decoding, (f"{path}: read as UTF-16",)
    decoding = _decode(path, "utf-8-sig")
    if not decoding.invalid_line:
        return "utf-8-sig", decoding, ()
    note = f"{path}: not UTF-8 (line {decoding.invalid_line}); read as Windows-1252, check the accents"
    # five bytes are undefined in Windows-1252; Latin-1 defines every byte
    encoding, decoding = "cp1252", _decode(path, "cp1252")
    if decoding.invalid_line:
        encoding, decoding = "latin-1", _decode(path, "latin-1")
    return encoding, decoding, (note,)


def _open_text(path: Path) -> TableFile:
    encoding, decoding, notes = _find_encoding(path)
    if decoding.blank:
        raise _empty(path)
    if path.suffix.lower() == ".jsonl":
        return TableFile(path, encoding=encoding, nul_line=decoding.nul_line, notes=notes)
    with open(path, encoding=encoding, newline="") as file:
        delimiter = _find_delimiter(file.read(_HEAD))
    _, header = next(_csv_lines(path, encoding, delimiter))
    columns = tuple(cell.strip() for cell in header)
    check_unique(str(path), columns)
    return TableFile(path, columns, encoding, delimiter, decoding.nul_line, notes=notes)


# CSV and TSV


def _find_delimiter(head: str) -> str:
    """The delimiter under which the header has most of our columns, then most columns."""
    ours = {folded(name) for names in ROLES.values() for name in names}
    head = head.lstrip().replace("\0", "")  # csv of Python 3.10 refuses NUL

    def score(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        return sum(folded(cell) in ours for cell in cells), len(cells)

    return max(",;\t", key=score)


def _csv_lines(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows without the blank ones; the first is the header."""
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long chart
    with open(path, encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        row = 0
        while True:
            row += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DatasetError(
                    f"{path} row {row} (near line {reader.line_num}): broken CSV ({error}); check its quotation marks"
                ) from None
            if cells:
                yield row, cells


def _csv_rows(table: TableFile) -> Iterator[Row]:
    lines = _csv_lines(table.path, table.encoding, table.delimiter)
    next(lines, None)  # the header
    for row, cells in lines:
        if len(cells) != len(table.columns):
            raise DatasetError(
                f"{table.path} row {row}: {len(cells)} cells where the header has {len(table.columns)}; "
                "check its quotation marks and separators"
            )
        yield row, dict(zip(table.columns, cells, strict=True))


# JSON Lines


def _jsonl_rows(path: Path, encoding: str) -> Iterator[Row]:
    with open(path, encoding=encoding, newline="\n") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
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
            columns, row_count = tuple(file.schema_arrow.names), file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path}: invalid Parquet file ({type(error).__name__}); export it again") from None
    check_unique(str(path), columns)
    return TableFile(path, columns, row_count=row_count)


def _parquet_rows(path: Path, batch_rows: int) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    row = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_rows):
                for cells in batch.to_pylist():
                    row += 1
                    yield row, cells
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path} after row {row}: damaged ({type(error).__name__}); export it again") from None
