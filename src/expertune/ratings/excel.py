"""Read one sheet of an Excel workbook (.xlsx) row by row, with the saved values of formulas."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DatasetError, ExpertuneError, UsageError
from .cells import as_whole

OTHER_FORMATS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")  # workbooks that are to be saved as .xlsx
_COMPOUND = bytes.fromhex("d0cf11e0a1b11ae1")  # first bytes of an .xls file, and of an encrypted .xlsx file
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_CODE = re.compile("_x([0-9A-Fa-f]{4})_")  # a character that XML cannot hold, such as a carriage return
_FORMULA = re.compile(rb"<(\w+:)?f[\s>/]")
_CHUNK_ROWS, _CHUNK_BYTES = 256, 1 << 20


def find_sheet(path: Path, wanted: str = "") -> tuple[str, tuple[str, ...]]:
    """Return the wanted sheet or the first one that is not hidden, and notes for the user.

    Raises DatasetError for a file that cannot be read, UsageError for a sheet that is not there.
    """
    _check_format(path)
    with _workbook(path) as book:
        shown = [sheet.title for sheet in book.worksheets if sheet.sheet_state == "visible"]
        names = [sheet.title for sheet in book.worksheets]
    if not names:
        raise DatasetError(f'{path}: no sheet of cells; save it in Excel as "Excel Workbook (.xlsx)"')
    if wanted and wanted not in names:
        raise UsageError(f"--sheet: {path} has no sheet {wanted!r}; it has: {', '.join(names)}")
    name = wanted or (shown or names)[0]
    others = ", ".join(each for each in names if each != name)
    hint = "" if wanted else "; --sheet NAME reads another, or move it to the front"
    notes = [f'{path}: sheet "{name}" is read, not {others}{hint}'] if others else []
    if _has_formulas(path) and (unsaved := _formulas_without_value(path, name)):
        notes.append(
            f"{path}: {len(unsaved):,} formula{'s' if len(unsaved) > 1 else ''} without a saved value read as blank, "
            f"the first in {unsaved[0]}; save the file in Excel once"
        )
    return name, tuple(notes)


def sheet_rows(path: Path, sheet: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows that are not blank, with their number in Excel and without the blank cells at their end."""
    with _workbook(path) as book:
        book[sheet].reset_dimensions()  # some programs write wrong ones
        rows = enumerate(book[sheet].iter_rows(), start=1)
        while chunk := _next_rows(rows):
            for row, cells in chunk:
                values = [_value(cell) for cell in cells]
                while values and (values[-1] is None or not str(values[-1]).strip()):
                    values.pop()
                if values:
                    yield row, values


def _check_format(path: Path) -> None:
    """Refuse a workbook with a password or of Excel before 2007, which are other kinds of file."""
    with open(path, "rb") as file:
        if file.read(len(_COMPOUND)) != _COMPOUND:
            return
        encrypted = _ENCRYPTED in file.read()
    if encrypted:
        raise DatasetError(f"{path}: protected by a password; save a copy without one in Excel and give that")
    raise DatasetError(f"{path}: an old Excel file (.xls) with another name; save it as .xlsx in Excel")


@contextmanager
def _workbook(path: Path, *, saved_values: bool = True) -> Iterator[Any]:
    """Open the workbook to read it as a stream. Raises DatasetError for whatever openpyxl finds wrong."""
    from openpyxl import load_workbook

    book = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and other parts that are not read
            book = load_workbook(path, read_only=True, data_only=saved_values)
        yield book
    except (ExpertuneError, OSError):
        raise
    except Exception as error:  # a damaged file may raise nearly any
        raise DatasetError(
            f"{path}: invalid or damaged Excel file ({type(error).__name__}); save it again as .xlsx in Excel"
        ) from None
    finally:
        if book is not None:
            book.close()


def _next_rows(rows: Iterator[Any]) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(islice(rows, _CHUNK_ROWS))


def _value(cell: Any) -> Any:
    """The value that Excel shows: 15 digits of a number, a date without the time 00:00, zeros that the format adds."""
    value = cell.value
    if isinstance(value, str):
        return _CODE.sub(lambda code: chr(int(code[1], 16)), value)
    if isinstance(value, datetime):
        return value.date() if value.time() == time() else value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if re.fullmatch("0{2,}", cell.number_format) and (whole := as_whole(value)) is not None:
            return str(whole).zfill(len(cell.number_format))
        return float(f"{value:.15g}") if isinstance(value, float) else value
    return value


def _has_formulas(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_contains(archive, name) for name in archive.namelist() if name.startswith("xl/worksheets/"))
    except (zipfile.BadZipFile, ValueError, EOFError):
        return False  # the reader of the rows says what is wrong


def _contains(archive: zipfile.ZipFile, name: str) -> bool:
    with archive.open(name) as part:
        before = b""
        while block := part.read(_CHUNK_BYTES):
            if _FORMULA.search(before + block):
                return True
            before = block[-32:]
    return False


def _formulas_without_value(path: Path, sheet: str) -> list[str]:
    """The cells whose formula was never computed: the program that wrote them is not a spreadsheet."""
    found = []
    with _workbook(path) as values, _workbook(path, saved_values=False) as formulas, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for book in (values, formulas):
            book[sheet].reset_dimensions()
        for row in zip(values[sheet].iter_rows(), formulas[sheet].iter_rows(), strict=True):
            for saved, written in zip(*row, strict=True):
                # a saved empty text has another type
                if written.data_type == "f" and saved.value is None and saved.data_type == "n":
                    found.append(written.coordinate)
    return found
