"""Rated rows → a folder of Parquet parts in the order of the input; each appears when it is whole. Mode 0600."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError
from ..files import atomic
from ..ratings.records import RecordFile
from ..ratings.tables import SUFFIXES
from .writer import ArrowRows, ParquetWriter

PART_ROWS = 32_768  # at least; the rows of one part are in memory
COMPLETE = "_SUCCESS"  # as Spark marks a folder whose parts are all there; readers of Parquet skip it
PART = re.compile(r"part-\d{5,}\.parquet")


def checked_parts(folder: Path, source: Path) -> Path:
    """Raises UsageError for anything but a new folder, or one of Parquet parts, which may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give --output another name, or one with {', '.join(SUFFIXES)}")
    if folder.exists() and source.parent.samefile(folder):
        raise UsageError(f"{folder}: is the folder of the input; choose another --output")
    others = sorted(each.name for each in folder.glob("*") if each.name != COMPLETE and not PART.fullmatch(each.name))
    if others:
        raise UsageError(f"{folder}: the folder has other files ({others[0]}); choose another --output")
    return folder


@contextmanager
def open_parts(folder: Path, records: RecordFile, added: Mapping[str, type]) -> Iterator[PartsWriter]:
    """A writer for rows that hold the input's columns and the `added` ones; the parts of an earlier run are replaced.

    Raises OutputError.
    """
    writer = PartsWriter(folder, ArrowRows(records, added))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMPLETE).unlink(missing_ok=True)
        yield writer
        writer.close()
        for stale in sorted(folder.glob("part-*.parquet"))[writer.parts :]:
            stale.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or choose another --output, and run "
            "again: what was rated is in the journal"
        ) from error
    with atomic(folder / COMPLETE):
        pass


class PartsWriter:
    def __init__(self, folder: Path, arrow: ArrowRows) -> None:
        self._folder, self._arrow = folder, arrow
        self._tables: list[Any] = []
        self.parts = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._tables.append(self._arrow.table(rows))
        if sum(map(len, self._tables)) >= PART_ROWS:
            self.close()

    def close(self) -> None:
        """Write the rows that no part has yet."""
        import pyarrow

        if self._tables:
            with atomic(self._folder / f"part-{self.parts:05}.parquet") as file:
                writer = ParquetWriter(file, self._arrow)
                try:
                    writer.write_table(pyarrow.concat_tables(self._tables))
                    writer.close()
                finally:
                    writer.discard()
            self._tables.clear()
            self.parts += 1
