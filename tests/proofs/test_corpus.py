"""Each hostile input of tests/data/corpus is read or refused in one line, in less than a second of processor time."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.gguf.read import GGUFFile
from expertune.rate.journal import Journal
from expertune.record import read_record
from expertune.review_page.journal import PageJournal
from fuzz import TARGETS, functions_of, refused

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
TEMPLATES = sorted((CORPUS / "template").iterdir())
INPUTS = [path for name in TARGETS for path in sorted((CORPUS / name).iterdir())]
SECONDS = 1.0
# One process for all templates, since llama.cpp parses them: a crash of it ends the process, and so does a slow one.
RENDER = """
import contextlib, json, signal, sys
from pathlib import Path
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import ExpertuneError

turns = [{"role": "system", "content": "You rate."}, {"role": "user", "content": "cough, fever"}]
for model in map(Path, sys.argv[2:]):
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))  # its signal ends the process
    line = ""
    try:
        with LlamaCppEngine(model, threads=1) as engine:
            engine.render(turns), engine.turn_end()
    except ExpertuneError as error:
        line = str(error)
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps([model.stem, line]), flush=True)
"""
no_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers of processor time")


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where the block takes longer; time in which other processes run does not count."""

    def end(*given: Any) -> None:
        raise TimeoutError(f"over {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the readers import on their first call does not count."""
    for target in TARGETS.values():
        refused(target, tmp_path_factory.mktemp("warm"), b"{}")


@no_timers
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # weights may be infinite
@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_read_or_refused_in_one_line(tmp_path: Path, warm: None, path: Path) -> None:
    content = path.read_bytes()
    with processor_time(SECONDS):
        line = refused(TARGETS[path.parent.name], tmp_path, content)
    assert line is None or (line and "\n" not in line)


@pytest.mark.slow
@no_timers
def test_hostile_chat_templates(tmp_path: Path) -> None:
    models = [
        str(tiny.make(tmp_path / f"{path.stem}.gguf", layers=1, chat_template=path.read_text(encoding="utf-8")))
        for path in TEMPLATES
    ]
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(3 * SECONDS), *models],  # a server starts and stops with each
        env=os.environ | {"PYTHONPATH": str(CORPUS.parents[2] / "src"), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(lines) == [path.stem for path in TEMPLATES], (done.returncode, done.stderr[-500:])
    assert all("\n" not in line for line in lines.values()) and any(lines.values()) and not all(lines.values())


@no_timers
def test_a_slow_reader_would_be_seen() -> None:
    with pytest.raises(TimeoutError), processor_time(0.05):
        while True:
            pass


def test_the_corpus_is_small_and_every_reader_has_inputs() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    assert {path.parent.name for path in files if path.parent != CORPUS} == {*TARGETS, "template"}
    assert min(sum(path.parent.name == name for path in files) for name in (*TARGETS, "template")) >= 5


def test_fuzzing_follows_methods_too() -> None:
    """The readers of journals and of GGUF files are methods: inputs are guided by what these do."""
    followed = functions_of(("expertune",))
    for each in (Journal.begin, Journal.find, GGUFFile.tensor, PageJournal.join, read_record):
        assert inspect.unwrap(each) in followed
