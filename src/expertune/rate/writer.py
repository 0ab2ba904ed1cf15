"""Rated rows → CSV, Excel, JSONL or Parquet, appended in order and renamed when all are there. Mode 0600."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import OutputError, UsageError
from ..files import LINE_END
from ..ratings.records import RecordFile
from ..ratings.tables import SUFFIXES
from .excel import XlsxWriter, cell_text, check_fits_sheet

BYTE_ORDER_MARK = "\ufeff"  # without it Excel does not read UTF-8


class Writer(Protocol):
    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


def checked_output(path: Path, source: Path, *, excel: bool = False) -> Path:
    """Raises UsageError for a name that cannot be written (with the mark for `excel`) or that is the input's own."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: {path.suffix or 'no suffix'} is not supported; choose {', '.join(SUFFIXES)}")
    if excel and path.suffix.lower() not in (".csv", ".tsv"):
        raise UsageError(f"--excel: it marks a .csv or .tsv file as UTF-8, and {path} is neither; leave it out")
    if path.exists() and path.samefile(source):
        raise UsageError(f"{path}: is the input itself; choose another --output")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file with --output")
    return path


@contextmanager
def open_output(path: Path, records: RecordFile, added: Mapping[str, type], *, excel: bool = False) -> Iterator[Writer]:
    """A writer for rows that hold the input's columns and the `added` ones; `path` appears when the block ends well.

    Until then the rows are in a hidden file in the same folder, which the next run overwrites. A .csv or .tsv file for
    `excel` begins with a byte order mark. Raises OutputError, and UsageError for records that fit no Excel sheet.
    """
    if path.suffix.lower() == ".xlsx":
        check_fits_sheet(records)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            writer = _writer(path, file, records, added, excel)
            try:
                yield writer
                writer.close()
            finally:
                if isinstance(writer, (XlsxWriter, ParquetWriter)):
                    writer.discard()
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another --output, and run "
            "again: what was rated is in the journal"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _writer(path: Path, file: IO[bytes], records: RecordFile, added: Mapping[str, type], excel: bool) -> Writer:
    suffix, columns = path.suffix.lower(), (*records.columns, *added)
    if suffix == ".jsonl":
        return JsonlWriter(file)
    if suffix == ".parquet":
        return ParquetWriter(file, ArrowRows(records, added))
    if suffix == ".xlsx":
        return XlsxWriter(file, columns, path)
    if excel:
        file.write(BYTE_ORDER_MARK.encode())
    return CsvWriter(file, columns, "\t" if suffix == ".tsv" else ",")


class CsvWriter:
    def __init__(self, file: IO[bytes], columns: Sequence[str], delimiter: str) -> None:
        self._file, self._columns = file, tuple(columns)
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, delimiter=delimiter, lineterminator=LINE_END)
        self._csv.writerow(self._columns)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._csv.writerows([self._cell(row.get(column)) for column in self._columns] for row in rows)
        # a broken character of the input stays readable as its code
        self._file.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()

    def close(self) -> None:
        self.write(())

    @staticmethod
    def _cell(value: Any) -> str:
        """Python's csv module writes a NUL from 3.11 on; before, its code stands for it."""
        text = cell_text(value)
        return text if sys.version_info >= (3, 11) else text.replace("\0", "\\x00")


class JsonlWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = (json.dumps(dict(row), ensure_ascii=False, default=str) for row in rows)
        # inside a JSON text the code of a broken character is its own escape
        self._file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        pass


class ArrowRows:
    """Rows as Arrow tables: the input's own types where it is Parquet, numbers of a JSONL column, all else text."""

    def __init__(self, records: RecordFile, added: Mapping[str, type]) -> None:
        import pyarrow

        kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
        own = _arrow_fields(records, kinds)
        self._texts = [field.name for field in own if field.type == pyarrow.string()]
        self.schema = pyarrow.schema([*own, *((name, kinds[kind]) for name, kind in added.items())])
        self._table = pyarrow.Table.from_pylist

    def table(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Raises OutputError for a column whose values have no one type."""
        plain = [{**row, **{name: _parquet_text(row.get(name)) for name in self._texts}} for row in rows]
        try:
            return self._table(plain, schema=self.schema)
        except (ValueError, TypeError, OverflowError) as error:
            raise OutputError(
                f"a column's values have no one type in Parquet ({type(error).__name__}); write .csv or .jsonl"
            ) from None


class ParquetWriter:
    def __init__(self, file: IO[bytes], rows: ArrowRows) -> None:
        import pyarrow.parquet

        self._rows = rows
        self._writer = pyarrow.parquet.ParquetWriter(file, rows.schema)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.write_table(self._rows.table(rows))

    def write_table(self, table: Any) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        """Without this pyarrow closes a file that could not be written once more, when its writer is collected."""
        self._writer.is_open = False


def _arrow_fields(records: RecordFile, kinds: Mapping[type, Any]) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    if records.path.suffix.lower() == ".parquet":
        return list(pyarrow.parquet.read_schema(records.path).remove_metadata())
    seen = records.kinds or {}
    return [pyarrow.field(column, kinds[column_kind(seen.get(column, frozenset()))]) for column in records.columns]


def column_kind(kinds: frozenset[type]) -> type:
    """The type that holds all of a column's values."""
    filled = kinds - {type(None)}
    if filled and filled <= {int, float}:
        return float if float in filled else int
    return bool if filled == {bool} else str


def _parquet_text(cell: Any) -> str | None:
    return None if cell is None else cell_text(cell).encode("utf-8", "backslashreplace").decode()
