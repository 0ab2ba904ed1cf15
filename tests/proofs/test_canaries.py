"""Text of records is in no file, log or line but those that are listed here: in a whole session, and where it fails.

Each record has words of its own that begin with one of MARKS. What a command leaves on the disk (temporary and cache
folders included) and prints is searched for them, with --debug.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import replies
import tiny
from expertune.cli.main import main
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError
from expertune.modelset import config as modelset
from expertune.modelset.records import Rule
from rate.stub import MAPPING, TOPIC, read_csv, write_csv, write_run

ROOT = Path(__file__).resolve().parents[2]
PROMPT, REASON, NAME, COMMENT = MARKS = ("zqprompt", "zqreason", "zqname", "zqcomment")
ANYTHING, NAMES = set(MARKS), {NAME}
# What a file may hold, by the first of these names that its own contains. What is in no line may hold nothing.
ALLOWED: dict[str, set[str]] = {
    "input_": ANYTHING,  # the user's own files
    "journal.sqlite": {REASON},  # of the model's rationales; the prompt is a hash, the id is not kept
    "page.sqlite": {NAME, COMMENT},
    "rated_codebook.csv": set(),
    "formatted.csv": ANYTHING,
    "rated.csv": ANYTHING,
    "review.csv": ANYTHING,
    "results.csv": ANYTHING,
    "merged.csv": ANYTHING,
    "adjudication_text.csv": ANYTHING,
    "adjudication.csv": NAMES,
    "training_data.jsonl": {PROMPT, REASON, NAME},
    "model_set_config.json": {PROMPT, REASON, NAME},
    # ids only, as SECURITY.md says
    "fine_tuning_metadata.json": NAMES,
    "fine_tuner.log": NAMES,
    "training_events.jsonl": NAMES,
    "test_predictions.csv": NAMES,
    "likely_label_errors.csv": NAMES,
    "checkpoints": NAMES,
    "printed": NAMES,
}
WORDS = (("cough", "fever", "sputum"), ("ankle", "fall", "cut"), ("dizzy", "unwell", "tired"))


def allowed(name: str) -> set[str]:
    return next((words for part, words in ALLOWED.items() if part in name), set())


def marks_in(content: bytes) -> set[str]:
    """The marks in a file's bytes, in any case, as UTF-8 or UTF-16."""
    text = content.lower()
    return {mark for mark in MARKS if mark.encode() in text or mark.encode("utf-16-le") in text}


def leaks(folder: Path) -> list[str]:
    """Files of the folder with a mark that they may not hold; names of files and folders are searched too."""
    found = []
    for path in (each for each in sorted(folder.rglob("*")) if each.is_file()):
        name = str(path.relative_to(folder))
        contents = [name.encode(), path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(each) for each in archive.namelist()]
        marks = set().union(*map(marks_in, contents))
        found += [f"{name}: {mark}" for mark in sorted(marks - allowed(name))]
    return found


def text_of(number: int) -> str:
    words = WORDS[number % 3]
    return (
        f"{words[number // 3 % 3]} and {words[number // 9 % 3]} {PROMPT}{number:04} since {number * 37 % 101} "
        f"hours in ward {number * 53 % 97} bed {number * 7 % 89}"
    )


def records(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rated records in the columns of an export, each with marks of its own."""
    return [
        {
            "Visit ID": f"{NAME}-{number:04}",
            "Chief Complaint": text_of(number),
            "Rating": list(MAPPING)[number % 3],
            "Rationale": f"because {REASON}{number:04}",
        }
        for number in range(start, start + count)
    ]


def new_records(count: int, start: int = 500) -> list[dict[str, Any]]:
    return [{"Row_ID": f"{NAME}-{number:04}", "Prompt": text_of(number)} for number in range(start, start + count)]


@dataclass
class Session:
    """A folder that is also home, temporary and cache folder, and what was printed in it."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: object, code: int | None = 0) -> str:
        """Run a command line with --debug; its stdout and stderr, which may hold ids only."""
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "--debug"])
        said = "\n".join(self.capture.readouterr())
        assert code is None or int(end.value.code or 0) == code, said
        assert marks_in(said.encode()) <= allowed("printed"), said
        return said

    def check(self) -> None:
        assert leaks(self.folder) == []


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Session]:
    for name in ("HOME", "OLLAMA_MODELS", "XDG_CACHE_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)  # else the folder of the first use
    monkeypatch.chdir(tmp_path)
    yield Session(tmp_path, capfd)
    tempfile.tempdir = None


def tune(session: Session, model: object, *flags: object, code: int | None) -> Path:
    """The folder of a run on 120 formatted records, checked on the way."""
    folder = session.folder
    source = write_csv(folder / "input_raw.csv", records(120))
    session.run("format", source, "--output", folder / "formatted.csv", "--topics", TOPIC)
    session.run("check", "--input", folder / "formatted.csv", "--topics", TOPIC)
    quick = ("--bootstrap-resamples", 100, "--model-set-budget-seconds", 2)
    where = ("--input", folder / "formatted.csv", "--output-dir", folder / "run")
    session.run("tune", *where, "--model", model, "--topics", TOPIC, *quick, *flags, code=code)
    session.run("report", folder / "run")
    session.check()
    return folder / "run"


def use(session: Session, run: Path, *flags: object) -> None:
    """Rate new records with a run, queue them, and merge the review."""
    folder = session.folder
    new = write_csv(folder / "input_new.csv", new_records(40))
    session.run("rate", new, "--with", run, "--output", folder / "rated.csv", *flags)
    session.run("review", folder / "rated.csv", "--output", folder / "review.csv", "--sample", 0.5)
    queue = read_csv(folder / "review.csv")
    for number, row in enumerate(queue):  # the last one rates a known record otherwise: a conflict
        row |= {"Reviewed_Rating": "1", "Review_Note": f"{COMMENT}{number:04}"}
    write_csv(folder / "review.csv", queue)
    where = ("--into", folder / "formatted.csv", "--output", folder / "merged.csv")
    session.run("merge-review", folder / "review.csv", *where, "--rating-mapping", json.dumps(MAPPING))
    assert COMMENT in (folder / "merged.csv").read_text()
    session.check()


def test_the_marks_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "fine_tuner.log").write_text(f"{NAME}-1 {PROMPT.upper()}0001")
    (tmp_path / ".rated.tmp").write_bytes(f"{COMMENT}1".encode("utf-16-le"))
    with zipfile.ZipFile(tmp_path / "sheet.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", f"{REASON}1 " * 99)
    assert leaks(tmp_path) == [f".rated.tmp: {COMMENT}", f"fine_tuner.log: {PROMPT}", f"sheet.xlsx: {REASON}"]


def rating_by_words(run: Path) -> Path:
    """The run's model set in a folder of its own, with TF-IDF as its rater, since its model is not on this machine."""
    config = modelset.read(run / "model_set_config.json")
    assert config.tfidf is not None
    (run.parent / "set").mkdir()
    changed = config.changed(
        models=tuple(each.model_copy(update={"weight": 0.0}) for each in config.models),
        tfidf=config.tfidf.model_copy(update={"weight": 1.0}),
        rule=Rule(kind="single", members=("TF-IDF",), reason="for this test"),
    )
    modelset.write(run.parent / "set" / "model_set_config.json", changed)
    return run.parent / "set"


@pytest.mark.slow
def test_a_session_with_a_model_set(session: Session) -> None:
    run = tune(session, "llama2", code=3)
    assert PROMPT in (run / "model_set_config.json").read_text() and not (run / "fine_tuned_model.gguf").exists()
    use(session, rating_by_words(run))


@pytest.mark.slow
def test_a_session_with_a_tuned_model(session: Session) -> None:
    model = tiny.make(session.folder / "base.gguf", layers=1, context=1024)
    flags = ("--approach", "tune", "--epochs", 1, "--rank", 4, "--batch-size", 8, "--class-weight", "none")
    run = tune(session, model, *flags, code=None)
    assert '"step"' in (run / "training_events.jsonl").read_text()
    use(session, run)
    if (run / "fine_tuned_model.gguf").exists():
        (session.folder / "rated.csv").unlink()
        use(session, run, "--rationale")


def test_experts_who_differ(session: Session) -> None:
    """The list to settle has ids; texts only where they were asked for."""
    folder = session.folder
    rows = [
        {**row, "Rating": row["Rating"], "Rating 2": list(MAPPING)[number % 2]}
        for number, row in enumerate(records(60))
    ]
    source = write_csv(folder / "input_experts.csv", rows)
    experts = ("--column", "rating=Rating", "--column", "rating=Rating 2")
    for name, flags in (("adjudication.csv", ()), ("adjudication_text.csv", ("--adjudicate-with-text",))):
        wanted = ("--output", folder / "formatted.csv", "--adjudicate", folder / name, *flags)
        session.run("format", source, *experts, *wanted)
        assert (PROMPT in (folder / name).read_text()) == bool(flags) and NAME in (folder / name).read_text()
    session.check()


# --- where it fails ---

SECRET = f"{PROMPT} a long text of a record that was put into the wrong cell"
BROKEN: dict[str, tuple[str, str]] = {
    "a text in the rating's cell": ("input_a.csv", f"Row_ID,Prompt,Rating\n1,x {PROMPT},{SECRET}\n"),
    "a quotation mark that is not closed": ("input_a.csv", f'Row_ID,Prompt,Rating\n1,"{SECRET},1\n2,y,0\n'),
    "a cell too many": ("input_a.csv", f"Row_ID,Prompt,Rating\n1,{SECRET}, {SECRET},1\n"),
    "no header": ("input_a.csv", f"{SECRET},1\n{SECRET} too,0\n"),
    "a NUL byte": ("input_a.csv", f"Row_ID,Prompt,Rating\n1,{SECRET}\0,1\n"),
    "a line that is not JSON": ("input_a.jsonl", f'{{"Prompt": "{SECRET}", "Rating": 1\n'),
    "a line that is a text": ("input_a.jsonl", f'"{SECRET}"\n'),
    "a list for a prompt": ("input_a.jsonl", f'{{"Prompt": ["{SECRET}"], "Rating": 1}}\n'),
    "half a character": ("input_a.jsonl", f'{{"Prompt": "{SECRET} \\ud800", "Rating": 1}}\n'),
    "a text for a rating in JSON": ("input_a.jsonl", f'{{"Prompt": "x", "Rating": "{SECRET}"}}\n'),
    "no Parquet file": ("input_a.parquet", f"PAR1{SECRET}"),
    "no Excel file": ("input_a.xlsx", SECRET),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("command", ["check", "format"])
def test_a_broken_input(session: Session, fault: str, command: str) -> None:
    name, content = BROKEN[fault]
    (session.folder / name).write_text(content, encoding="utf-8")
    source = (session.folder / name,) if command == "format" else ("--input", session.folder / name)
    said = session.run(command, *source, code=2)
    assert PROMPT not in said and "Traceback" in said
    session.check()


@pytest.mark.parametrize("name", ["model_set_config.json", "fine_tuning_metadata.json"])
@pytest.mark.parametrize(
    "content", ['{"version": 99, "few_shot_examples": "S"}', '{"a": "S"', '["S"]', '{"rule": "S"}']
)
def test_a_damaged_run(session: Session, name: str, content: str) -> None:
    run = session.folder / "run"
    run.mkdir()
    (run / "fine_tuning_metadata.json").write_text("{}")
    (run / name).write_text(content.replace("S", SECRET))
    new = write_csv(session.folder / "input_new.csv", new_records(3))
    assert PROMPT not in session.run("rate", new, "--with", run, code=None)


ECHO = (
    "{% if 'zqpr' ~ 'ompt' in messages[-1]['content'] %}{{ raise_exception('cannot say: ' + messages[-1]['content']) }}"
    "{% endif %}" + tiny.CHAT_TEMPLATE
)


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A model whose chat template refuses each record, and repeats it in its reason."""
    return tiny.make(tmp_path / "echo.gguf", layers=1, chat_template=ECHO)


def test_an_engine_that_repeats_the_record_in_its_error(session: Session, echo: Path) -> None:
    with LlamaCppEngine(echo, threads=1) as engine:
        with pytest.raises(EngineError, match=r"llama\.cpp refused /apply-template") as caught:
            engine.render([{"role": "user", "content": text_of(1)}])
        assert engine.render([{"role": "user", "content": "one"}])
    assert PROMPT not in str(caught.value)
    run = write_run(session.folder / "run", echo)
    new = write_csv(session.folder / "input_new.csv", new_records(12))
    session.run("rate", new, "--with", run, "--output", session.folder / "rated.csv", "--threads", 1)
    errors = [row["Rating_Error"] for row in read_csv(session.folder / "rated.csv")]
    assert all(errors) and PROMPT not in "".join(errors)
    session.check()


QUOTES = ("{}", "template error: {}", "llama-server process has terminated: {}", "x " * 60 + "{}")


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("words", QUOTES)
def test_a_server_that_repeats_the_record_in_its_error(status: int, words: str) -> None:
    def answer(request: replies.Request) -> replies.Reply:
        if request.path == "/api/version":
            return replies.json_reply({"version": "0.33.0"})
        sent = request.json
        record = sent["messages"][-1]["content"] if "messages" in sent else sent["prompt"]
        return replies.json_reply({"error": {"message": words.format(record)}}, status)

    bodies = ({"messages": [{"role": "user", "content": text_of(1)}]}, {"prompt": f"<user>\n{text_of(2)}"})
    with replies.serving(answer) as server, OllamaServer(server.url, patience=0.0) as client:
        for path, body in zip(("/api/chat", "/api/generate"), bodies, strict=True):
            with pytest.raises(EngineError) as caught:
                client.ask("POST", path, {"model": "m", **body})
            assert not marks_in(str(caught.value).encode()) and "\n" not in str(caught.value)


def test_a_server_whose_reason_repeats_nothing_is_quoted() -> None:
    refusal = replies.json_reply({"error": "the sky has fallen"}, 500)
    version = replies.json_reply({"version": "0.33.0"})
    with (
        replies.serving(lambda request: version if request.path == "/api/version" else refusal) as server,
        OllamaServer(server.url) as client,
        pytest.raises(EngineError, match="the sky has fallen"),
    ):
        client.ask("POST", "/api/chat", {"model": "m", "messages": [{"role": "user", "content": text_of(1)}]})


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_ctrl_c_while_rating(session: Session) -> None:
    folder = session.folder
    run = rating_by_words(tune(session, "llama2", code=3))
    new = folder / "input_new.csv"
    with open(new, "w", newline="") as file:
        table = csv.DictWriter(file, ["Row_ID", "Prompt"])
        table.writeheader()
        table.writerows(new_records(40_000))
    command = ["rate", new, "--with", run, "--output", folder / "rated.csv", "--debug"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-m", "expertune", *map(str, command)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        parts: Sequence[Path] = ()
        while not parts and process.poll() is None:
            parts = [part for part in folder.glob(".rated.csv*") if part.stat().st_size]
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "the same command goes on" in said
    assert not marks_in(said.encode()) - NAMES and not (folder / "rated.csv").exists()
    assert not list(folder.glob(".rated.csv*"))
    session.check()


# --- the page ---


@pytest.mark.slow
def test_a_page_on_which_two_experts_rate_and_comment(
    session: Session, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette", reason="the page's packages are not installed (expertune[page])")
    from review_page.pages import page_of, rate_source, tab

    caplog.set_level("DEBUG")
    folder = session.folder
    source = write_csv(folder / "input_raw.csv", new_records(12))
    with page_of(rate_source(source), folder, overlap=1.0) as (page, client):
        tabs = [tab(page, client, name) for name in ("Ana", "Ben")]
        for number in range(12):
            for each in tabs:
                each.press(number % 2, comment=f"{COMMENT}{number:04}")
        assert client.post("/t0ken/rater/1/rate/write").status_code == 200
        with pytest.raises(ZeroDivisionError):  # a fault of the program in a route
            page.shown = lambda *given: 1 / 0
            client.post("/t0ken/rater/1/rate/comment", data={"record": "x", "comment": f"{COMMENT}{PROMPT}"})
            client.get("/t0ken/rater/1/rate")
        session.check()  # the journal is open: its write-ahead file too
    session.check()
    said = "\n".join(capfd.readouterr()) + caplog.text
    assert not marks_in(said.encode()), said
