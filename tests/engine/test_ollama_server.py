"""An Ollama server is asked patiently, and nothing else is; each refusal is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replies
from expertune.engine.ollama.errors import Unavailable, explained
from expertune.engine.ollama.host import checked_url, host_url, is_this_machine
from expertune.engine.ollama.server import OllamaServer, full_name, running_server
from expertune.errors import EngineError, ExpertuneError, OutputError, UsageError
from replies import Reply, Request, json_reply

VERSION = json_reply({"version": "0.33.0"})
BUSY = json_reply({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503)
CLOSED = Reply(body=None)
LINE = 250  # characters that an error may take


# --- where it is ---


def test_host_url(monkeypatch: pytest.MonkeyPatch):
    """The forms of OLLAMA_HOST are in test_ollama_environment.py."""
    monkeypatch.setenv("OLLAMA_HOST", "localhost:1234")
    assert host_url() == "http://localhost:1234"
    assert host_url("https://ollama.example.org/behind/") == "https://ollama.example.org:443/behind"


@pytest.mark.parametrize(
    "host", ["ftp://127.0.0.1", "a:b:c", "http://[zz]", "user@localhost", "127.0.0.1#@evil", "two words", "1.2.3.4\\@x"]
)
def test_what_is_no_host(host: str):
    with pytest.raises(UsageError) as caught:
        host_url(host)
    _is_a_line(caught.value)


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://10.0.0.7:1", False),
        ("http://localhost.example.org:1", False),
        ("http://[fe80::1]:1", False),
    ],
)
def test_this_machine(url: str, ours: bool):
    assert is_this_machine(url) is ours
    if ours:
        assert checked_url(url) == url
    else:
        with pytest.raises(UsageError, match="--allow-remote"):
            checked_url(url)
        assert checked_url(url, allow_remote=True) == url


def test_another_machine_is_never_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", "192.0.2.1")  # TEST-NET: a connection would hang
    assert running_server() is None
    with pytest.raises(UsageError, match="patient text would be sent there"):
        OllamaServer()


def test_no_server(monkeypatch: pytest.MonkeyPatch):
    with replies.serving(lambda request: VERSION) as gone:
        pass
    with pytest.raises(EngineError, match=r"no Ollama server answers at .*ollama serve"):
        OllamaServer(gone.url)
    monkeypatch.setenv("OLLAMA_HOST", gone.url)
    assert running_server() is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, b"<html>Not here</html>"),
        Reply(200, b"<html>A router</html>"),
        Reply(200, b"[]"),
        Reply(200, b"{}"),
        Reply(302, b"", {"Location": "http://192.0.2.1/"}),
    ],
)
def test_something_else_listens_there(reply: Reply):
    with (
        replies.serving(lambda request: reply) as server,
        pytest.raises(EngineError, match="no Ollama server answers at"),
    ):
        OllamaServer(server.url)


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.33.0", (0, 33, 0)), ("0.34.1-rc2", (0, 34, 1)), ("0.0.0", (9999,)), ("main", (9999,))],
)
def test_version(text: str, version: tuple[int, ...]):
    with replies.serving(lambda request: json_reply({"version": text})) as server, OllamaServer(server.url) as client:
        assert (client.version, client.version_text) == (version, text)


def test_nothing_else_is_contacted(monkeypatch: pytest.MonkeyPatch):
    """Neither the proxy that variables name nor the place that an answer sends to."""
    with replies.serving(lambda request: VERSION) as other:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, other.url)
        elsewhere = Reply(307, b"", {"Location": f"{other.url}/api/tags"})
        with (
            replies.serving(lambda request: VERSION if request.path == "/api/version" else elsewhere) as server,
            OllamaServer(server.url) as client,
        ):
            with pytest.raises(EngineError, match="refused"):
                client.models()
            assert [request.path for request in server.asked] == ["/api/version", "/api/tags"]
        assert other.asked == []


# --- patience ---


class Sequence:
    """One reply after the other for a path, the last one for ever."""

    def __init__(self, path: str, *found: Reply) -> None:
        self.path, self.found = path, list(found)

    def __call__(self, request: Request) -> Reply:
        if request.path != self.path:
            return VERSION
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        CLOSED,
        Reply(200, b'{"models": ['),
        Reply(200, b'{"models"', {"Content-Length": "900", "Connection": "close"}),
        json_reply({"error": "an error was encountered while running the model: unexpected EOF"}, 500),
        json_reply({"error": "llama-server process has terminated: signal: killed"}, 500),
    ],
    ids=["busy", "closed", "no-json", "cut", "runner-killed", "cannot-load"],
)
def test_asked_again(fault: Reply):
    answer = Sequence("/api/tags", fault, fault, json_reply({"models": [{"name": "tiny:latest"}]}))
    with replies.serving(answer) as server, OllamaServer(server.url) as client:
        assert client.holds("tiny")
        assert [request.path for request in server.asked].count("/api/tags") == 3


@pytest.mark.parametrize(("fault", "line"), [(BUSY, "too many requests waiting"), (CLOSED, "does not answer")])
def test_patience_ends(fault: Reply, line: str):
    with (
        replies.serving(Sequence("/api/tags", fault)) as server,
        OllamaServer(server.url, patience=0.0) as client,
        pytest.raises(EngineError, match=line) as caught,
    ):
        client.models()
    _is_a_line(caught.value)


def test_a_refusal_is_not_asked_again():
    refusal = json_reply(replies.recorded("show-missing"), 404)
    with replies.serving(Sequence("/api/show", refusal)) as server, OllamaServer(server.url) as client:
        with pytest.raises(UsageError, match="absent:latest: not in Ollama"):
            client.show("absent")
        assert len(server.asked) == 2


def test_closed_while_waiting():
    with replies.serving(Sequence("/api/tags", BUSY)) as server:
        client = OllamaServer(server.url)
        client.close()
        client.close()
        with pytest.raises((EngineError, RuntimeError), match="closed"):
            client.models()


# --- streams, blobs, life ---


@pytest.mark.parametrize(
    ("body", "error", "line"),
    [
        (b'{"status": "a"}\n', Unavailable, "ended too early"),
        (b'{"status": "a"}\n{"stat', Unavailable, "cut short"),
        (b'{"error": "supplied file was not in GGUF format"}\n', EngineError, "is not a GGUF"),
        (b"", Unavailable, "ended too early"),
    ],
)
def test_a_stream_that_fails(body: bytes, error: type[ExpertuneError], line: str):
    with (
        replies.serving(Sequence("/api/create", Reply(200, body))) as server,
        OllamaServer(server.url) as client,
        pytest.raises(error, match=line),
    ):
        list(client.stream("/api/create", {"model": "tiny"}))


def test_a_stream_that_succeeds():
    body = b'{"status": "a"}\n\n{"status": "success"}\n'
    with replies.serving(Sequence("/api/create", Reply(200, body))) as server, OllamaServer(server.url) as client:
        assert list(client.stream("/api/create", {"model": "tiny"})) == [{"status": "a"}, {"status": "success"}]


def test_upload(tmp_path: Path):
    path = tmp_path / "blob"
    path.write_bytes(bytes(3 << 20))
    held: list[bytes] = []

    def answer(request: Request) -> Reply:
        if request.method == "POST":
            held.append(request.body)
            return Reply(201)
        return Reply(200 if held else 404) if request.method == "HEAD" else VERSION

    sent: list[int] = []
    with replies.serving(answer) as server, OllamaServer(server.url) as client:
        client.upload(path, "sha256:00", sent.append)
        client.upload(path, "sha256:00", sent.append)  # is there already
    assert held == [path.read_bytes()]
    assert sum(sent) == path.stat().st_size


def test_unload_and_delete():
    def answer(request: Request) -> Reply:
        if request.path == "/api/ps":
            return json_reply(replies.recorded("ps"))
        if request.path == "/api/delete":
            return json_reply(replies.recorded("delete-missing"), 404)
        return VERSION if request.path == "/api/version" else json_reply({"done": True})

    with replies.serving(answer) as server, OllamaServer(server.url) as client:
        client.unload("tiny")
        client.unload("absent")
        client.delete("tiny-copy")
    assert [request.json for request in server.asked if request.path == "/api/generate"] == [
        {"model": "tiny", "keep_alive": 0}
    ]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("tiny", "tiny:latest"),
        ("tiny:7b", "tiny:7b"),
        ("library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny", "tiny:latest"),
        ("team/tiny", "team/tiny:latest"),
        ("localhost:5000/team/tiny", "localhost:5000/team/tiny:latest"),
    ],
)
def test_full_name(name: str, full: str):
    assert full_name(name) == full


def test_torch_is_not_loaded():
    code = "import sys, expertune.estimate.capability, expertune.engine.ollama.server; print('torch' in sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert child.stdout.strip() == "False"


# --- what it refuses ---

CLASSES = {
    "unknown-path": EngineError,
    "show-missing": UsageError,
    "chat-missing": UsageError,
    "show-bad-name": UsageError,
    "create-bad-name": UsageError,
    "delete-missing": UsageError,
}


def _refusals() -> Iterator[tuple[str, str, int]]:
    for path in sorted(replies.EXCHANGES.glob("*.json")):
        response = json.loads(path.read_bytes())["response"]
        lines = [line for line in response.get("lines") or () if isinstance(line, dict) and "error" in line]
        if response["status"] >= 400 or lines:
            text = response["text"] if "text" in response else json.dumps(lines[0] if lines else response["json"])
            yield path.stem.split("-", 1)[1], text, response["status"]


@pytest.mark.parametrize(("name", "text", "status"), list(_refusals()), ids=[name for name, _, _ in _refusals()])
def test_recorded_refusals(name: str, text: str, status: int):
    error = explained(text, "tiny", status)
    _is_a_line(error)
    assert type(error) is CLASSES.get(name, EngineError)
    assert "{text}" not in str(error)


def test_there_are_recorded_refusals():
    assert len(list(_refusals())) > 20


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("write /models/blobs/sha256-1-partial: no space left on device", OutputError, "disk of the Ollama server"),
        ("open /models/blobs: permission denied", OutputError, "may not write its models folder"),
        ("model requires more system memory (9.9 GiB) than is available", EngineError, "choose a smaller model"),
        ("LoRA adapters are no longer supported", EngineError, "register the merged file"),
        ("server busy, please try again.", Unavailable, "try again when it is less busy"),
        ("llama-server process has terminated: exit status 1", Unavailable, "cannot load the model"),
    ],
)
def test_refusals_by_their_words(text: str, error: type[ExpertuneError], line: str):
    found = explained(json.dumps({"error": text}), "tiny", 500)
    assert type(found) is error
    assert line in str(found)
    _is_a_line(found)


def test_a_prompt_that_is_too_long_names_both_numbers():
    error = explained(json.dumps(replies.recorded("chat-too-long-no-truncate")), "tiny", 400)
    assert "needs 6037 tokens but the context holds 512" in str(error)


@given(st.text(), st.integers(400, 599))
def test_any_words_make_a_line(text: str, status: int):
    for body in (text, json.dumps({"error": text}), json.dumps({"error": {"message": text}})):
        _is_a_line(explained(body, "tiny", status))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "null", '{"error": null}', "1", '{"error": ["a"]}', "\x1b[2J{text}{0}"]
)
def test_hostile_words_make_a_line(text: str):
    _is_a_line(explained(text, "tiny", 500))


def _is_a_line(error: ExpertuneError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) <= LINE
