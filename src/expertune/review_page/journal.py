"""Journal of the page: every key press in one SQLite file, written before the answer, so that kill -9 loses nothing.

Rows are only added; an undone rating is marked as such. The file holds experts' comments on patients: mode 0600.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import UsageError
from ..rate.sqlite_journal import SqliteJournal

Step = Literal["independent", "revised", "adjudicated"]  # before and after the model's view; between two experts
APPLICATION = 0x45585052  # SQLite's application_id of these files
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS raters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ratings (
    id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters, step TEXT NOT NULL, record TEXT NOT NULL,
    value INTEGER NOT NULL, time TEXT NOT NULL, undone TEXT);
CREATE TABLE IF NOT EXISTS comments (
    id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters, record TEXT NOT NULL, text TEXT NOT NULL,
    time TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
COMMIT;
"""


class Entry(NamedTuple):
    """One rating of a record by a rater, both by id. `step` says what the rater knew."""

    id: int
    rater: int
    step: Step
    record: str
    value: int


class PageJournal(SqliteJournal):
    """Raises UsageError also for a file of other work."""

    synchronous = "FULL"
    in_use = "in use by another page; stop that one first"
    remedy = "check the folder and free space"

    def __init__(self, path: Path, *, work: str, mapping: str) -> None:
        self._begun = {"work": work, "mapping": mapping}
        super().__init__(path)

    def _open(self, *, empty: bool) -> None:
        (kind,) = self._db.execute("PRAGMA application_id").fetchone()
        if kind != APPLICATION and not empty:
            raise UsageError(f"{self.path}: no journal of this page; name another file with --journal")
        self._db.executescript(SCHEMA)
        for name, value in self._begun.items():
            if self.fact(name, value) != value:
                raise UsageError(f"{self.path}: was begun with another {name}; name another file with --journal")

    def fact(self, name: str, value: str | None = None) -> str | None:
        """The fact of this name; `value` is kept if there is none yet."""
        with self._sqlite_errors():
            if value is not None:
                self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def join(self, name: str) -> int:
        """The id of a rater, who is added if new."""
        with self._sqlite_errors():
            self._db.execute("INSERT OR IGNORE INTO raters (name, time) VALUES (?, ?)", (name, _now()))
            return self._written("SELECT id FROM raters WHERE name = ?", name)

    def raters(self) -> dict[int, str]:
        with self._sqlite_errors():
            return dict(self._db.execute("SELECT id, name FROM raters ORDER BY id").fetchall())

    def rate(self, rater: int, step: Step, record: str, value: int) -> Entry:
        """Keep a rating; when this returns it is on the disk."""
        with self._sqlite_errors():
            added = self._db.execute(
                "INSERT INTO ratings (rater, step, record, value, time) VALUES (?, ?, ?, ?, ?)",
                (rater, step, record, value, _now()),
            )
        return Entry(int(added.lastrowid or 0), rater, step, record, value)

    def undo(self, entry: Entry) -> None:
        with self._sqlite_errors():
            self._db.execute("UPDATE ratings SET undone = ? WHERE id = ?", (_now(), entry.id))

    def ratings(self) -> list[Entry]:
        """All that are not undone, in their order."""
        sought = "SELECT id, rater, step, record, value FROM ratings WHERE undone IS NULL ORDER BY id"
        with self._sqlite_errors():
            return [Entry(*row) for row in self._db.execute(sought)]

    def comment(self, rater: int, record: str, text: str) -> None:
        with self._sqlite_errors():
            self._db.execute(
                "INSERT INTO comments (rater, record, text, time) VALUES (?, ?, ?, ?)", (rater, record, text, _now())
            )

    def comments(self) -> dict[tuple[int, str], str]:
        """The last comment of each rater on each record."""
        with self._sqlite_errors():
            return {
                (rater, record): text
                for rater, record, text in self._db.execute("SELECT rater, record, text FROM comments ORDER BY id")
            }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
