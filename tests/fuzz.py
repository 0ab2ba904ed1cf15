"""Readers of files from others, as targets of the corpus (tests/data/corpus) and of coverage-guided fuzzing.

    python tests/fuzz.py csv FOLDER tests/data/corpus/csv -max_len=2048 -max_total_time=60

runs atheris on one target (`pip install atheris`, in an environment of its own) and keeps in FOLDER what it finds; a
crash is an exception that is none of the project's own. An input may take SECONDS of processor time, and the process
MEMORY more than it has at the start. PYTHONPATH=src:tests where Expertune is not installed. bench/soak.py counts.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

import jinja2
from jinja2 import nodes

import expertune.review_page.journal as page
from expertune.config import make_config
from expertune.engine import chat_template
from expertune.engine.base import Message
from expertune.errors import ExpertuneError, RenamedSettingWarning
from expertune.export.decision import PromptFrame
from expertune.gguf.quants import can_dequantize
from expertune.gguf.read import GGUFFile, read_metadata
from expertune.modelset import config as modelset
from expertune.outputs import read_config
from expertune.rate.journal import Journal, JournalEntry, record_hash
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import load_scale, make_scale
from expertune.readout import record as readout
from expertune.record import read_record

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
SECONDS = 1.0
MEMORY = 1 << 30  # bytes
JINJA = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as llama.cpp has it


class TooSlow(BaseException):
    """No Exception: a reader that refuses whatever goes wrong would hide it."""


class Target(NamedTuple):
    """A reader, and the name that its input has on the disk."""

    name: str
    read: Callable[[Path], object]


def read_gguf(path: Path) -> None:
    read_metadata(path)
    with GGUFFile(path) as file:
        assert all(field.value is not None for field in file.fields.values())
        for info in file.tensors.values():
            if can_dequantize(info.type):
                assert file.tensor(info.name).shape == info.shape


def read_rate_journal(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin(config="c", model="m", engine="e", options={}, seed=1, versions={})
        journal.find([record_hash("a")])
        journal.put(JournalEntry(record=record_hash("a"), session=journal.session, seconds=0.0, error="e"))
        journal.has_rated(record_hash("a"))


def read_page_journal(path: Path) -> None:
    with page.PageJournal(path, work="rate", mapping="{}") as journal:
        journal.rate(journal.join("Ana"), "independent", "a", 1)
        journal.ratings(), journal.comments(), journal.raters()


def read_settings(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedSettingWarning)
        make_config(read_config(path).settings)


def rendered(template: str, state: str) -> str:
    """The template over `state`, without Jinja's compiler, which takes 1 ms: what `PromptFrame.template` writes."""
    return "".join(_shown(node, state) for output in JINJA.parse(template).body for node in output.nodes)


def _shown(node: nodes.Node, state: str) -> str:
    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Const):
        return node.value
    assert isinstance(node, nodes.Name | nodes.Filter), "a record's text or a prompt's became code"
    return state if isinstance(node, nodes.Name) else state.strip()


def read_prompt(path: Path) -> None:
    """Three parts of a prompt: before, around and after its messages, by a chat template that does what it likes."""
    before, between, after, *_ = (*path.read_bytes().decode("utf-8", "replace").split("\0"), "", "", "")
    frame = PromptFrame(before, after, trims=len(before) % 2 == 1)
    assert rendered(frame.template(), between) == frame.of(between), "not the prompt that was trained"

    def render(messages: Sequence[Message]) -> str:
        return before + between.join(message["content"] for message in messages) + after

    lead = chat_template.answer_lead(render)
    folds = not chat_template.shows_system(render)
    assert all("\n" not in line for line in chat_template.remarks(render, lead, folds_system=folds))
    chat_template.checked(render([chat_template.say("user", between)]), [chat_template.say("user", between)])
    chat_template.after_turn(render, "model")


TARGETS = {
    "gguf": Target("model.gguf", read_gguf),
    "csv": Target("rows.csv", lambda path: read_ratings(path, SCALE)),
    "jsonl": Target("rows.jsonl", lambda path: read_ratings(path, SCALE)),
    "mapping": Target("mapping.json", lambda path: load_scale(path, None)),
    "rate_journal": Target("rated.csv.journal.sqlite", read_rate_journal),
    "page_journal": Target("rows.csv.rate.sqlite", read_page_journal),
    "run_record": Target("fine_tuning_metadata.json", lambda path: read_record(path.parent)),
    "model_set": Target("model_set_config.json", modelset.read),
    "readout": Target("readout.json", readout.read),
    "settings": Target("training_config.yaml", read_settings),
    "prompt": Target("prompt.txt", read_prompt),
}


def refused(target: Target, folder: Path, content: bytes) -> str | None:
    """Read `content` in a folder; the line of an error of the project's own, None if it was read."""
    path = folder / target.name
    for left in folder.glob(f"{target.name}*"):
        left.unlink()
    path.write_bytes(content)
    try:
        target.read(path)
    except ExpertuneError as error:
        return str(error)
    return None


def limit() -> None:
    """End an input that takes too long, and refuse memory beyond MEMORY more than now."""
    import resource

    def end(*given: object) -> None:
        raise TooSlow(f"over {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, end)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def functions_of(packages: Sequence[str]) -> list[FunctionType]:
    """Functions and methods of all modules of these packages that are loaded, each once."""
    found: dict[int, FunctionType] = {}
    for name in [each for each in list(sys.modules) if each.split(".")[0] in packages]:
        own = [each for each in list(vars(sys.modules[name]).values()) if getattr(each, "__module__", "") == name]
        methods = [value for each in own if isinstance(each, type) for value in vars(each).values()]
        for value in (*own, *methods):
            inner = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", None) or value)
            if isinstance(inner, FunctionType):
                found[id(inner.__code__)] = inner
    return list(found.values())


def fuzz(name: str, arguments: list[str]) -> None:
    import atheris  # pyright: ignore[reportMissingImports]

    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=os.environ.get("TMPDIR", shared)))
    warnings.simplefilter("ignore")

    def once(content: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            line = refused(TARGETS[name], folder, content)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert line is None or "\n" not in line

    refused(TARGETS[name], folder, b"{}")  # what the first input imports does not count
    for function in functions_of(("expertune", "json", "csv", "yaml")):
        atheris.instrument_func(function)
    limit()
    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])
