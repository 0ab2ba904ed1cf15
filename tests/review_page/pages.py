"""Files of the three works, and a page over them without a socket."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertune.rate.columns import share_columns
from expertune.ratings.scale import make_scale
from expertune.review_page.results import Results
from expertune.review_page.server import open_session
from expertune.review_page.session import Session
from expertune.review_page.source import Source, read_records, read_review
from rate.stub import write_csv

ROOT = Path(__file__).resolve().parents[2]
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
SCALE = make_scale(MAPPING)
HOST, TOKEN = "127.0.0.1:8000", "t0ken"
WORDS = (("cough", "fever", "sputum"), ("ankle", "fall", "cut"), ("dizzy", "unwell", "tired"))


def raw_file(folder: Path, count: int = 60, **columns: Any) -> Path:
    """Visits whose words say the label: rows 1, 4, 7 … cough, 2, 5, 8 … ankle, 3, 6, 9 … dizzy."""
    rows = [
        {
            "Row_ID": f"r{i}",
            "Prompt": f"Complaint: {WORDS[i % 3][i // 3 % 3]} and {WORDS[i % 3][i // 9 % 3]}\nBed: b{i}\n\nTask: rate",
            "Ward": f"w{i % 4}",
            **{name: values[i] for name, values in columns.items()},
        }
        for i in range(count)
    ]
    return write_csv(folder / "raw.csv", rows)


def truth(prompt: str) -> int:
    """The label that the words of such a visit say."""
    return next(
        value for value, words in zip(SCALE.values, WORDS, strict=True) if any(word in prompt for word in words)
    )


def rated_file(folder: Path, count: int = 60, wrong: Sequence[int] = ()) -> Path:
    """As `expertune rate` writes it: every fourth record doubtful, the model wrong in the rows `wrong`."""
    source, rows = raw_file(folder, count), []
    for i, row in enumerate(read(source)):
        value = truth(row["Prompt"])
        value = SCALE.values[(SCALE.values.index(value) + 1) % 3] if i in wrong else value
        doubtful = i % 4 == 0
        shares = dict.fromkeys(share_columns(SCALE).values(), 0.1)
        shares[share_columns(SCALE)[SCALE.label_of(value)]] = 0.8
        reasons = "several labels fit | low confidence" if doubtful else ""
        rows.append(
            {**row, "Predicted_Rating": value, "Predicted_Label": SCALE.label_of(value), "Confidence": 0.8, **shares,
             "Conformal_Set": "", "Review_Reasons": reasons, "Rationale": f"reason {i}", "Rating_Error": ""}
        )  # fmt: skip
    return write_csv(folder / "rated.csv", rows)


def read(path: Path) -> list[dict[str, str]]:
    import csv

    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def rate_source(path: Path, **more: Any) -> Source:
    return read_records(path, SCALE, topics="", choices=(), **more)


def review_source(path: Path, sample: float = 0.5) -> Source:
    return read_review(path, SCALE, sample=sample, seed=1)


@dataclass
class Tab:
    """A browser without scripts: it keeps the last page and sends its forms."""

    client: Any
    rater: int
    view: str
    page: str = ""
    sent: list[str] = field(default_factory=list)

    def open(self) -> Tab:
        answer = self.client.get(f"/{TOKEN}/rater/{self.rater}/{self.view}")
        assert answer.status_code == 200
        self.page = answer.text
        return self

    def hidden(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page)
        return found.group(1) if found else ""

    @property
    def text(self) -> str:
        """The record's text as a reader sees it."""
        found = re.search(r'<div class="text" id="text">(.*?)</div>', self.page, re.DOTALL)
        return html.unescape(re.sub(r"<[^>]+>", "", found.group(1))) if found else ""

    def press(self, value: int, **more: str) -> Tab:
        fields = {"record": self.hidden("record"), "step": self.hidden("step"), "value": str(value), **more}
        return self.post("rate", fields)

    def undo(self) -> Tab:
        return self.post("undo", {})

    def post(self, route: str, fields: dict[str, str]) -> Tab:
        answer = self.client.post(f"/{TOKEN}/rater/{self.rater}/{self.view}/{route}", data=fields)
        assert answer.status_code in (200, 204)
        self.page = answer.text or self.page
        return self


@contextmanager
def page_of(source: Source, folder: Path, overlap: float = 0.0) -> Iterator[tuple[Session, Any]]:
    """The session and a client whose requests come from the page itself, by htmx."""
    from starlette.testclient import TestClient

    from expertune.review_page.app import make_app
    from expertune.review_page.security import Access

    session = open_session(source, folder / "page.sqlite", overlap=overlap, seed=1)
    app = make_app(session, Results(folder / "results.csv"), Access("http", (HOST,), TOKEN))
    headers = {"Origin": f"http://{HOST}", "HX-Request": "true"}
    with session.journal:
        yield session, TestClient(app, base_url=f"http://{HOST}", headers=headers, follow_redirects=False)


def tab(session: Session, client: Any, name: str, view: str = "") -> Tab:
    answer = client.post(f"/{TOKEN}/join", data={"name": name})
    assert answer.status_code == 303
    rater = int(answer.headers["location"].split("/")[3])
    return Tab(client, rater, view or session.source.work).open()


@contextmanager
def serving(*arguments: object, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`expertune review … --page` in a process of its own, and its address; ended by SIGKILL if it still runs."""
    command = [sys.executable, "-m", "expertune", "review", *map(str, arguments), "--page"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("open "):
                    yield process, line.split()[1]
                    return
            raise AssertionError("".join(lines))
        finally:
            process.kill()
