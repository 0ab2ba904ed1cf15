"""Write rows as an Excel workbook (.xlsx) of one sheet."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from ..errors import OutputError, UsageError
from ..files import atomic
from ..ratings.cells import as_text
from ..ratings.records import RecordFile

MOST_ROWS, LONGEST_TEXT, MOST_DIGITS = 1_048_576, 32_767, 15  # what an Excel sheet, cell and number hold
# Characters that XML cannot hold or changes, and a text that looks like the code of one; Excel's codes are _x000D_.
_CODED = re.compile("[\0-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
_TOO_LONG = "longer than the {most:,} characters that an Excel cell holds; give a .csv output"


class XlsxWriter:
    """Text stays text, so that "=1+1" is no formula and "0010" no number; numbers, dates and truth values are typed.

    The rows wait in a hidden file next to `path`, mode 0600, until the workbook is put together at the end: openpyxl
    would put them into the system's temporary folder.
    """

    def __init__(self, file: IO[bytes], columns: Sequence[str], path: Path) -> None:
        from openpyxl import Workbook
        from openpyxl.worksheet import _writer

        self._file, self._columns, self._path = file, tuple(columns), path
        self._rows = path.with_name(f".{path.name}.rows")
        self._rows.unlink(missing_ok=True)
        os.close(os.open(self._rows, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._book = Workbook(write_only=True)
        self._sheet: Any = self._book.create_sheet("Ratings")
        self._sheet._writer = _writer.WorksheetWriter(self._sheet, str(self._rows))
        _writer.ALL_TEMP_FILES.append(str(self._rows))  # openpyxl removes it when the workbook is saved, and at exit
        self._sheet._writer.write_top()
        self._sheet.append([self._cell(column) for column in self._columns])

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._sheet.append([self._cell(row.get(column)) for column in self._columns])

    def close(self) -> None:
        self._book.save(self._file)

    def discard(self) -> None:
        """Remove what was written, where the workbook is not complete."""
        with contextlib.suppress(Exception):
            self._sheet.close()
        self._rows.unlink(missing_ok=True)

    def _cell(self, value: Any) -> Any:
        from openpyxl.cell import WriteOnlyCell

        value = excel_value(value)
        if not isinstance(value, str):
            return value
        if len(value) > LONGEST_TEXT:
            raise OutputError(f"{self._path}: a text is {_TOO_LONG.format(most=LONGEST_TEXT)}")
        text = value.encode("utf-8", "backslashreplace").decode()
        cell = WriteOnlyCell(self._sheet, _CODED.sub(lambda letter: f"_x{ord(letter[0]):04X}_", text))
        cell.data_type = "s"
        return cell


def write_xlsx(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a whole table atomically. Raises OutputError."""
    with atomic(path) as file:
        writer = XlsxWriter(file, columns, path)
        try:
            writer.write(rows)
            writer.close()
        finally:
            writer.discard()


def check_fits_sheet(records: RecordFile) -> None:
    """Raise UsageError for records that an Excel sheet cannot hold, before they are rated."""
    if records.rows >= MOST_ROWS:
        raise UsageError(
            f"{records.path}: {records.rows:,} records; an Excel sheet holds {MOST_ROWS - 1:,}, write .csv"
        )
    for batch in records.batches(256):
        for record in batch:
            for column, cell in record.cells.items():
                if isinstance(cell, str) and len(cell) > LONGEST_TEXT:
                    too_long = _TOO_LONG.format(most=LONGEST_TEXT)
                    raise UsageError(f"{records.path} row {record.row}, column {json.dumps(column)}: {too_long}")


def excel_value(cell: Any) -> Any:
    """A cell as a type of Excel, or as text where Excel would lose something: long numbers, time zones, old dates."""
    if cell is None or isinstance(cell, (bool, time)):
        return cell
    if isinstance(cell, date):  # a datetime too
        aware = isinstance(cell, datetime) and cell.tzinfo is not None
        return as_text(cell) if aware or cell.year < 1900 else cell
    if isinstance(cell, int):
        return cell if len(str(abs(cell))) <= MOST_DIGITS else str(cell)
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else as_text(cell)
    if isinstance(cell, Decimal) and cell.is_finite():
        return float(cell) if len(cell.as_tuple().digits) <= MOST_DIGITS else as_text(cell)
    return cell_text(cell) or None


def cell_text(cell: Any) -> str:
    if isinstance(cell, (dict, list)):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return "" if cell is None else cell if isinstance(cell, str) else as_text(cell)
