"""The journal: nothing is lost by SIGKILL, one page at a time, and only for the work that it was begun with."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from expertune.errors import UsageError
from expertune.ratings.read import read_ratings
from expertune.review_page.journal import PageJournal
from rate.test_journal import ignore_inserts
from review_page.pages import ROOT, SCALE, page_of, rate_source, raw_file, serving, tab

pytest.importorskip("uvicorn", reason="the page's packages are not installed (expertune[page])")


PLACE = os.environ | {"PYTHONPATH": str(ROOT / "src")}


def send(address: str, path: str, fields: dict[str, str] | None = None) -> str:
    data = None if fields is None else urllib.parse.urlencode(fields).encode()
    request = urllib.request.Request(address + path, data, {"Origin": address.rsplit("/", 2)[0], "HX-Request": "true"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def rate_one(address: str, page: str, value: int) -> str:
    fields = dict(re.findall(r'name="(record|step)" value="([^"]*)"', page))
    return send(address, "rater/1/rate/rate", {**fields, "value": str(value), "comment": "seen"})


@pytest.mark.slow
def test_a_killed_page_has_lost_nothing(tmp_path: Path) -> None:
    raw_file(tmp_path, 30)
    arguments = ("raw.csv", "--output", "results.csv", "--topics", "visits")
    with serving(*arguments, cwd=tmp_path) as (process, address):
        send(address, "join", {"name": "Ana"})
        page = send(address, "rater/1/rate")
        for value in (1, 0, -1, 1, 1, 0):
            page = rate_one(address, page, value)
        send(address, "rater/1/rate/undo", {})
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert not (tmp_path / "results.csv").exists()
    for name in tmp_path.glob("raw.csv.rate.sqlite*"):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600, name
    with serving(*arguments, cwd=tmp_path) as (process, address):
        page = send(address, "rater/1/rate")
        assert "<b>5</b> of 30 records" in page and "Ana" in page
        rate_one(address, send(address, "rater/1/rate/undo", {}), -1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "results.csv: 5 records with a rating" in output
        assert "seen" not in output and "cough" not in output and address not in output
    ratings = read_ratings(tmp_path / "results.csv", SCALE)
    assert sorted(rating.value for rating in ratings) == [-1, -1, 0, 1, 1]
    assert {rating.rationale for rating in ratings} == {"seen"}


def test_it_is_for_one_process_one_work_and_one_mapping(tmp_path: Path) -> None:
    path = tmp_path / "page.sqlite"
    with PageJournal(path, work="rate", mapping="{}"):
        code = f"import expertune.review_page.journal as j; j.PageJournal({str(path)!r}, work='rate', mapping='{{}}')"
        second = subprocess.run([sys.executable, "-c", code], env=PLACE, capture_output=True, text=True, check=False)
        assert "in use by another page" in second.stderr
    with pytest.raises(UsageError, match="another mapping"):
        PageJournal(path, work="rate", mapping='{"A": 1}')
    with pytest.raises(UsageError, match="another work"):
        PageJournal(path, work="review", mapping="{}")
    PageJournal(path, work="rate", mapping="{}").close()


def test_other_files_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE own (x)")
    db.close()
    text = tmp_path / "notes.txt"
    text.write_text("no database " * 100)
    for path in (other, text):
        before = path.read_bytes()
        with pytest.raises(UsageError, match="no journal"):
            PageJournal(path, work="rate", mapping="{}")
        assert path.read_bytes()[100:] == before[100:]


def test_each_rating_is_on_the_disk_when_it_is_answered(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        settings = [
            session.journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
        assert settings == ["wal", 2]
        tab(session, client, "Ana").press(1)
        copy = tmp_path / "copy.sqlite"
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{session.journal.path}{suffix}").read_bytes())
        db = sqlite3.connect(copy)
        assert db.execute("SELECT value, undone FROM ratings").fetchall() == [(1, None)]
        db.close()


def test_a_damaged_file_that_keeps_no_rater_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "page.sqlite"
    PageJournal(path, work="rate", mapping="{}").close()
    ignore_inserts(path, "raters")
    with (
        PageJournal(path, work="rate", mapping="{}") as journal,
        pytest.raises(UsageError, match="no journal, or damaged; name another"),
    ):
        journal.join("Ana")
