"""Serve a tuned file, or any GGUF, to other programs on this machine: llama.cpp's server, loopback only, with a key."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.base import Message
from ..engine.decision import ROUTE, Question, is_decision_model, make_question
from ..engine.llama_cpp.context import largest_context
from ..engine.llama_cpp.server import EmbeddedServer, Launch
from ..errors import UsageError
from ..export.decision import NOTE
from ..gguf.read import read_metadata
from ..machine import usable_cores
from ..modelset.system_prompt import definition
from .artifact import load_product

PUBLIC = Path(__file__).with_name("public")
CHAT = "/v1/chat/completions"
RECORD = "the text of a record"
CONTEXT = 4096  # tokens of a request to a file whose run is not known


@dataclass(frozen=True)
class ServedFile:
    """A file to serve. `body` is an example of a request to `route`; `note` says what a user should know, or ""."""

    file: Path
    context: int
    route: str
    body: Mapping[str, object]
    note: str = ""


@dataclass(frozen=True)
class Address:
    """Where a running server answers, and its key."""

    url: str
    key: str

    def curl(self, route: str, body: Mapping[str, object]) -> str:
        """A line for a shell."""
        headers = (f"Authorization: Bearer {self.key}", "Content-Type: application/json")
        shown = " ".join(f"-H {shlex.quote(header)}" for header in headers)
        return f"curl -s {self.url}{route} {shown} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"

    def python(self, route: str, body: Mapping[str, object]) -> str:
        """A line of Python that needs no package."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        return (
            "import json, urllib.request as u; "
            f"r = u.Request({self.url + route!r}, json.dumps({body!r}).encode(), {headers!r}); "
            "print(u.urlopen(r).read().decode())"
        )


def served_file(source: Path) -> ServedFile:
    """The tuned file of a run's folder, checked to be the judged one, or a GGUF.

    Raises UsageError for anything else, and ModelFileError for a damaged file.
    """
    if not source.is_dir():
        if not source.is_file():
            raise UsageError(f"{source}: no such file; give the output folder of a finished run, or a GGUF")
        question = make_question({"first label": "its meaning", "second label": "its meaning"}, "")
        return _served(source, CONTEXT, question, [{"role": "user", "content": RECORD}])
    product = load_product(source, "tuned")
    assert product.file is not None  # a tuned product has one
    scale = product.scale
    meanings = {label: definition(scale, value) for label, value in zip(scale.labels, scale.values, strict=True)}
    question = make_question(meanings, product.topics)
    notes = ["expertune tune --code-branch makes one"]
    if product.prompts_by_server:
        notes.append("its prompts were written by Ollama, and here the file's own template writes them")
    return _served(product.file, product.context, question, product.messages(RECORD), notes)


def _served(
    file: Path, context: int, question: Question, messages: Sequence[Message], notes: Sequence[str] = ()
) -> ServedFile:
    """`notes` are for a file that is not a decision model."""
    metadata = read_metadata(file)
    context = min(context, largest_context(file, metadata))
    if is_decision_model(metadata):
        return ServedFile(file, context, ROUTE, question.request(RECORD), str(metadata.get(NOTE, "")))
    chat = {"messages": [*messages], "temperature": 0}
    lacks = f"not a decision model: {ROUTE} is not offered, {CHAT} is"
    return ServedFile(file, context, CHAT, chat, "; ".join((lacks, *notes)))


def start(served: ServedFile, *, port: int = 0, threads: int | None = None) -> EmbeddedServer:
    """Start the server on this machine's loopback interface.

    Raises UsageError for a port that is in use, EngineError where llama.cpp cannot load the file.
    """
    _check_port(port)
    cores = threads or usable_cores()
    return EmbeddedServer(Launch(str(served.file), "", served.context, 1, cores, port=port, public=str(PUBLIC)))


def _check_port(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"--port {port}: cannot be used ({error.strerror}); choose another, or 0") from None
