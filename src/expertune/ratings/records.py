"""CSV, JSONL and Parquet with records that nobody has rated yet, in batches: memory does not grow with rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .read import _UNCLEAN as UNCLEAN
from .read import PROMPT, SUFFIXES, Table, is_blank
from .read import _delimiter as find_delimiter

HEAD = 100_000  # characters that decide on the separator


@dataclass(frozen=True)
class RawRecord:
    """One row as it stands in the file. `row` counts as a person does; `fault` says why it cannot be rated."""

    row: int
    cells: Mapping[str, Any]
    prompt: str
    fault: str | None = None


@dataclass(frozen=True)
class RecordFile:
    """A file that was read through once: every row has its columns, so that hours of rating will not end at a typo.

    `rows` is the number of records, `kinds` the Python types that a JSONL column holds; `notes` are for the user.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    prompt: str
    encoding: str = "utf-8"
    delimiter: str = ","
    kinds: Mapping[str, frozenset[type]] | None = None
    notes: tuple[str, ...] = ()

    def batches(self, size: int) -> Iterator[list[RawRecord]]:
        """All records, at most `size` at a time."""
        rows = (self._record(row, cells) for row, cells in self._cells(size))
        while batch := list(islice(rows, size)):
            yield batch

    def _cells(self, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.path.suffix.lower() == ".parquet":
            return _parquet_rows(self.path, size)
        if self.path.suffix.lower() == ".jsonl":
            return _jsonl_rows(self.path, self.encoding)
        return _csv_rows(self.path, self.encoding, self.delimiter)

    def _record(self, row: int, cells: Mapping[str, Any]) -> RawRecord:
        cell = cells.get(self.prompt)
        if is_blank(cell):
            return RawRecord(row, cells, "", "the prompt is blank")
        if not isinstance(cell, str):
            return RawRecord(row, cells, "", f"the prompt is no text but {type(cell).__name__}")
        if UNCLEAN.search(cell):
            return RawRecord(row, cells, "", "the prompt holds a NUL or broken character")
        return RawRecord(row, cells, cell)


def open_records(path: Path) -> RecordFile:
    """Read a .csv, .tsv, .jsonl or .parquet file through once and describe it.

    Raises DatasetError (file, row, column) for whatever makes it unusable; a prompt that is blank or no text does not.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DatasetError(f"{path}: {suffix or 'a file without suffix'} is not supported; give {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise DatasetError(f"{path}: the file is empty; export it again")
        if suffix == ".parquet":
            return _open_parquet(path)
        return _open_text(path, suffix)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def _open_text(path: Path, suffix: str) -> RecordFile:
    with open(path, "rb") as file:
        begin = file.read(4)
    for encoding in ("utf-16",) if begin.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            found = _open_csv(path, encoding) if suffix != ".jsonl" else _open_jsonl(path, encoding)
        except UnicodeDecodeError:
            continue
        return found
    raise DatasetError(f"{path}: neither UTF-8 nor UTF-16; save it as UTF-8")


def _open_csv(path: Path, encoding: str) -> RecordFile:
    with open(path, encoding=encoding, newline="") as file:
        head = file.read(HEAD)
    delimiter = find_delimiter(head)
    rows = sum(1 for _ in _csv_rows(path, encoding, delimiter))
    columns = [cell.strip() for cell in next(_csv_lines(path, encoding, delimiter), (1, []))[1]]
    return _described(path, tuple(columns), rows, encoding=encoding, delimiter=delimiter)


def _open_jsonl(path: Path, encoding: str) -> RecordFile:
    kinds: dict[str, set[type]] = {}
    rows = 0
    for _, cells in _jsonl_rows(path, encoding):
        rows += 1
        for column, cell in cells.items():
            kinds.setdefault(column, set()).add(type(cell))
    frozen = {column: frozenset(found) for column, found in kinds.items()}
    return _described(path, tuple(kinds), rows, encoding=encoding, kinds=frozen)


def _open_parquet(path: Path) -> RecordFile:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return _described(path, tuple(file.schema_arrow.names), file.metadata.num_rows)
    except (pyarrow.ArrowException, ValueError) as error:
        raise DatasetError(f"{path}: no readable Parquet file ({type(error).__name__}); export it again") from None


def _described(path: Path, columns: tuple[str, ...], rows: int, **facts: Any) -> RecordFile:
    table = Table(str(path), columns, ())
    twice = [column for place, column in enumerate(columns) if column in columns[:place]]
    if twice:
        raise DatasetError(f'{path}: column "{twice[0][:40]}" is there twice; rename or remove one')
    if not rows:
        raise DatasetError(f"{path}: no rows; there is nothing to rate")
    encoding = facts.get("encoding", "utf-8-sig")
    note = () if encoding == "utf-8-sig" else (f"{path}: not UTF-8; read as {encoding}, check the accents",)
    return RecordFile(path, columns, rows, table.need(PROMPT), notes=note, **facts)


def _csv_lines(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows, the header as row 1; blank lines after it are left out."""
    csv.field_size_limit(2**31 - 1)
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


def _csv_rows(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    columns: list[str] | None = None
    for row, cells in _csv_lines(path, encoding, delimiter):
        if columns is None:
            columns = [cell.strip() for cell in cells]
        elif len(cells) != len(columns):
            raise DatasetError(
                f"{path} row {row}: {len(cells)} cells where the header has {len(columns)}; "
                "check its quotation marks and separators"
            )
        else:
            yield row, dict(zip(columns, cells, strict=True))


def _jsonl_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding=encoding, newline="\n") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                raise DatasetError(f"{path} row {row}: no valid JSON; each line must be one object") from None
            if not isinstance(cells, dict):
                raise DatasetError(f"{path} row {row}: {type(cells).__name__}, not an object; correct the line")
            yield row, cells


def _parquet_rows(path: Path, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    row = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                for cells in batch.to_pylist():
                    row += 1
                    yield row, cells
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path} after row {row}: damaged ({type(error).__name__}); export it again") from None
