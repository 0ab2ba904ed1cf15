"""Journal of rated rows in one SQLite file: a run that was killed continues from it, and nothing is rated twice.

A row's key is what decides its rating: the configuration, the model file's digest and the sha256 of its prompt. Each
rating is written as soon as it is there, in write-ahead mode, so that kill -9 loses only what was being computed.
The file holds answers about patients: mode 0600.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..outputs import now
from .sqlite_journal import SqliteJournal

VERSION = 1
ASKED_AT_ONCE = 500  # SQLite's oldest limit on the parameters of a statement is 999
SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id INTEGER PRIMARY KEY, config TEXT NOT NULL, model TEXT NOT NULL, UNIQUE (config, model));
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL REFERENCES keys, engine TEXT NOT NULL, options TEXT NOT NULL,
    seed INTEGER NOT NULL, versions TEXT NOT NULL, started TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ratings (
    key INTEGER NOT NULL REFERENCES keys, record BLOB NOT NULL, label TEXT, value INTEGER, probabilities TEXT,
    answer TEXT, answer_label TEXT, votes TEXT, error TEXT, seconds REAL NOT NULL, time TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions, PRIMARY KEY (key, record)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS overrides (
    record BLOB PRIMARY KEY, value INTEGER NOT NULL, note TEXT NOT NULL, time TEXT NOT NULL) WITHOUT ROWID;
"""
COLUMNS = (
    *("record", "label", "value", "probabilities", "votes", "answer", "error", "seconds", "answer_label", "session"),
    "override",
)
SELECT = f"""SELECT {", ".join(f"r.{name}" for name in COLUMNS[:-1])}, o.value
    FROM ratings r LEFT JOIN overrides o ON o.record = r.record WHERE key = ? AND r.record IN """


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One rating, or only the reason why there is none (`error`). `record` is the sha256 of the prompt, `probabilities`
    are the model's own, `answer` is the raw text of its reason for `answer_label`; `override` is a reviewer's value.
    `votes` are the labels of a model set's members, by name. `exact` is as in Prediction, and is not kept in the file.
    """

    record: bytes
    session: int
    seconds: float
    label: str | None = None
    value: int | None = None
    probabilities: tuple[float, ...] = ()
    votes: Mapping[str, str] = field(default_factory=dict)
    exact: bool = True
    answer: str | None = None
    answer_label: str | None = None
    error: str | None = None
    override: int | None = None


def record_hash(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


class Journal(SqliteJournal):
    """Safe for many threads of its process."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._key = self.session = 0
        super().__init__(path)

    def _open(self, *, empty: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != VERSION and (version or not empty):
            raise UsageError(f"{self.path}: no journal of this version; name another file with --journal")
        self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise

    def begin(
        self,
        *,
        config: str,
        model: str,
        engine: str,
        options: Mapping[str, Any],
        seed: int,
        versions: Mapping[str, Any],
    ) -> None:
        """Open a session: `find` and `put` then are about ratings by this configuration and model."""
        with self._lock, self._sqlite_errors():
            self._db.execute("INSERT OR IGNORE INTO keys (config, model) VALUES (?, ?)", (config, model))
            self._key = self._written("SELECT id FROM keys WHERE config = ? AND model = ?", config, model)
            facts = (self._key, engine, _json(options), seed, _json(versions), now())
            made = self._db.execute(
                "INSERT INTO sessions (key, engine, options, seed, versions, started) VALUES (?, ?, ?, ?, ?, ?)", facts
            )
            self.session = int(made.lastrowid or 0)

    def find(self, records: Sequence[bytes]) -> dict[bytes, JournalEntry]:
        """The entries of those records that have one."""
        found: dict[bytes, JournalEntry] = {}
        wanted = list(dict.fromkeys(records))
        for start in range(0, len(wanted), ASKED_AT_ONCE):
            some = wanted[start : start + ASKED_AT_ONCE]
            marks = ", ".join("?" * len(some))
            with self._lock, self._sqlite_errors():
                rows = self._db.execute(f"{SELECT} ({marks})", (self._key, *some)).fetchall()
            try:
                found |= {row[0]: _entry(row) for row in rows}
            except (ValueError, TypeError, RecursionError):
                raise self._damaged() from None
        return found

    def put(self, *entries: JournalEntry) -> None:
        """Keep ratings, all or nothing; they are there from now on, whatever happens to this process."""
        rows = [(self._key, entry.record, *_facts(entry), now(), self.session) for entry in entries]
        with self._lock, self._sqlite_errors(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def override(self, corrections: Sequence[tuple[bytes, int, str]]) -> int:
        """Keep what a reviewer said (record, value, note), all or nothing; how many of them this journal has rated."""
        rows = [(*correction, now()) for correction in corrections]
        with self._lock, self._sqlite_errors(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO overrides VALUES (?, ?, ?, ?)", rows)
        return sum(self.has_rated(record) for record, _, _ in corrections)

    def has_rated(self, record: bytes) -> bool:
        """True if any model rated the record."""
        sought = "SELECT 1 FROM ratings WHERE key IN (SELECT id FROM keys) AND record = ?"
        with self._lock, self._sqlite_errors():
            return self._db.execute(sought, (record,)).fetchone() is not None


def _facts(entry: JournalEntry) -> tuple[Any, ...]:
    shares = _json(entry.probabilities) if entry.probabilities else None
    votes = _json(dict(entry.votes)) if entry.votes else None
    answer = (entry.answer, entry.answer_label)
    return (entry.label, entry.value, shares, *answer, votes, entry.error, entry.seconds)


def _entry(row: tuple[Any, ...]) -> JournalEntry:
    found = dict(zip(COLUMNS, row, strict=True))
    probabilities = tuple(map(float, json.loads(found.pop("probabilities") or "[]")))
    votes = dict(json.loads(found.pop("votes") or "{}"))
    return JournalEntry(**found, probabilities=probabilities, votes=votes)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
