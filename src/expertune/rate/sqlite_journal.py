"""A journal in one SQLite file, mode 0600, for one process at a time; kill -9 loses nothing that was written."""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import OutputError, UsageError
from ..text import one_line

Own = TypeVar("Own", bound="SqliteJournal")


class SqliteJournal(ABC):
    """A context manager; `_open` creates the tables.

    Raises UsageError for a file that is not a journal or is in use, OutputError where it cannot be written.
    """

    synchronous = "NORMAL"
    in_use = "in use by another run; wait for it or stop it"
    remedy = "check the folder and free space, then run again"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self._sqlite_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
            self._db = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            with self._sqlite_errors():
                for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", f"synchronous = {self.synchronous}"):
                    self._db.execute(f"PRAGMA {setting}")
                (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                self._open(empty=not tables)
        except BaseException:
            self._db.close()
            raise

    @abstractmethod
    def _open(self, *, empty: bool) -> None:
        """Check that the file, unless it is `empty`, is of this kind, and create the tables."""

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            reason = one_line(str(error))  # of a damaged file it may quote names with line ends
            if "locked" in reason:
                raise UsageError(f"{self.path}: {self.in_use}") from None
            if reason.startswith("Could not decode"):  # and then quotes the text of the column
                raise self._damaged() from None
            raise OutputError(f"{self.path}: cannot be written ({reason}); {self.remedy}") from None
        # of a damaged file SQLite's message may quote what is no text, or a value may have a size of gigabytes
        except (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError):
            raise self._damaged() from None
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror}); choose another place with --journal"
            ) from None

    def _damaged(self) -> UsageError:
        return UsageError(f"{self.path}: no journal, or damaged; name another file with --journal")

    def _written(self, sought: str, *key: object) -> int:
        """The id of a row that is there by now. Raises sqlite3.DatabaseError where a damaged file does not have it."""
        found = self._db.execute(sought, key).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("a row is missing")
        return found[0]

    def close(self) -> None:
        self._db.close()

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
