from __future__ import annotations

import contextlib
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from expertune.errors import OutputError, UsageError
from expertune.rate.journal import Journal, JournalEntry, record_hash

RATED = JournalEntry(
    record=record_hash("a"),
    session=1,
    seconds=0.5,
    label="Match",
    value=1,
    probabilities=(0.7, 0.2, 0.1),
    votes={"m": "Match", "TF-IDF": "Unknown"},
    answer="since",
    answer_label="Match",
)
FAILED = JournalEntry(record=record_hash("b"), session=1, seconds=0.1, error="too long")


def begun(path: Path, config: str = "c", model: str = "m") -> Journal:
    journal = Journal(path)
    journal.begin(
        config=config, model=model, engine="rule", options={"context": 9}, seed=3, versions={"expertune": "1"}
    )
    return journal


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.sqlite"
    with begun(path) as journal:
        for entry in (RATED, FAILED):
            journal.put(entry)
    with begun(path) as journal:
        found = journal.find([record_hash(text) for text in ("a", "b", "c", "a")])
        assert set(found) == {record_hash("a"), record_hash("b")}
        assert found[RATED.record] == RATED
        assert (found[FAILED.record].error, found[FAILED.record].value, found[FAILED.record].session) == (
            "too long",
            None,
            1,
        )
        assert journal.session == 2
    with sqlite3.connect(path) as db:
        facts = db.execute("SELECT engine, options, seed, versions FROM sessions").fetchall()
        (time,) = db.execute("SELECT DISTINCT length(time) FROM ratings").fetchone()
    db.close()
    assert facts == [("rule", '{"context": 9}', 3, '{"expertune": "1"}')] * 2 and time > 18


@pytest.mark.parametrize(("config", "model"), [("other", "m"), ("c", "other")])
def test_another_configuration_or_model_has_its_own_entries(tmp_path: Path, config: str, model: str) -> None:
    with begun(tmp_path / "j") as journal:
        journal.put(RATED)
    with begun(tmp_path / "j", config, model) as journal:
        assert journal.find([RATED.record]) == {}


def test_many_records_at_once(tmp_path: Path) -> None:
    with begun(tmp_path / "j") as journal:
        keys = [record_hash(str(i)) for i in range(1203)]
        for key in keys:
            journal.put(JournalEntry(**{**RATED.__dict__, "record": key}))
        assert list(journal.find(keys)) and len(journal.find(keys)) == 1203


def test_many_threads(tmp_path: Path) -> None:
    with begun(tmp_path / "j") as journal:

        def write(part: int) -> None:
            for i in range(50):
                journal.put(JournalEntry(**{**RATED.__dict__, "record": record_hash(f"{part} {i}")}))
                journal.find([RATED.record])

        threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(journal.find([record_hash(f"{part} {i}") for part in range(8) for i in range(50)])) == 400


def test_files_are_private(tmp_path: Path) -> None:
    with begun(tmp_path / "j") as journal:
        journal.put(RATED)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600} and "j" in modes


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from expertune.rate.journal import Journal; Journal(Path(sys.argv[1]))"
    )
    with begun(tmp_path / "j"):
        source = str(Path(__file__).resolve().parents[2] / "src")
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "j")],
            env={"PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "in use by another run" in done.stderr and done.returncode == 1
    begun(tmp_path / "j").close()


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "text", tmp_path / "other", tmp_path / "newer"
    text.write_text("Prompt,Rating\n" * 400)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    for path in (text, other, newer):
        with pytest.raises(UsageError, match="name another file with --journal"):
            Journal(path)
    assert text.read_text().startswith("Prompt")
    with pytest.raises(OutputError, match="--journal"):
        Journal(tmp_path)


def test_overrides_are_kept_for_every_configuration(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with begun(path) as journal:
        journal.put(RATED)
        assert journal.override([(RATED.record, 0, "no"), (record_hash("z"), 1, "")]) == 1
        assert journal.find([RATED.record])[RATED.record].override == 0
        journal.put(RATED)
    with begun(path, "other") as journal:
        journal.put(RATED)
        assert journal.find([RATED.record])[RATED.record].override == 0
        journal.override([(RATED.record, -1, "again")])
        assert journal.find([RATED.record])[RATED.record].override == -1


def test_a_damaged_file_that_keeps_nothing_is_one_line(tmp_path: Path) -> None:
    """As where an index of SQLite's is damaged: what was just written is not found."""
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    ignore_inserts(path, "keys")
    with Journal(path) as journal, pytest.raises(UsageError, match="no journal, or damaged; name another"):
        journal.begin(config="c", model="m", engine="e", options={}, seed=1, versions={})


def test_bytes_that_are_no_text_are_one_line_without_them(tmp_path: Path) -> None:
    """SQLite's own message quotes the column, which may be what a model said of a record."""
    path = tmp_path / "journal.sqlite"
    with begun(path) as journal:
        journal.put(RATED)
    with contextlib.closing(sqlite3.connect(path)) as found:
        found.execute("UPDATE ratings SET answer = CAST(? AS TEXT)", (b"cough\n\xff",))
        found.commit()
    with begun(path) as journal, pytest.raises(UsageError, match="no journal, or damaged; name another") as caught:
        journal.find([RATED.record])
    assert "cough" not in str(caught.value) and "\n" not in str(caught.value)


def ignore_inserts(path: Path, table: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as found:
        found.executescript(f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END")
