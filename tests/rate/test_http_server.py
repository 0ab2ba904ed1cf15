"""`expertune serve`: only on this machine, only with the key, silent about records, and over with Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import decision_models
import tiny
from expertune.cli.main import main
from expertune.engine.llama_cpp import server as embedded
from expertune.errors import UsageError
from expertune.rate.http_server import Address, served_file, start
from pages import blocks
from rate.stub import MAPPING, TOPIC, write_run

SECRET = "a cough that no log may hold"
ROOT = Path(__file__).resolve().parents[2]


class Running:
    """The command in a process of its own, with what it printed until it was ready."""

    def __init__(self, process: subprocess.Popen[str], printed: str) -> None:
        self.process, self.printed = process, printed
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\S+ -H 'Authorization: Bearer (\w{64})'", printed)
        assert found, printed
        self.port, self.key = int(found[1]), found[2]

    def ask(self, path: str, body: Any = None, *, key: str | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        status, content = answer.status, json.loads(answer.read())
        connection.close()
        return status, content

    def interrupt(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def running(source: Path, *flags: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "expertune", "serve", str(source), "--threads", "1", *flags],
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    printed = ""
    try:
        while "/health" not in printed and (line := process.stdout.readline()):
            printed += line
        yield Running(process, printed)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_tuned_decision_model_answers_who_has_the_key(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", decision_models.make(tmp_path / "m.gguf"))
    with running(folder) as server:
        assert TOPIC in server.printed and all(label in server.printed for label in MAPPING)
        body = served_file(folder).body
        assert list(body["questions"]["rating"]["criteria"]) == list(MAPPING)
        asked = body | {"state": SECRET}
        for key in (None, "0" * 64):
            assert server.ask("/v1/systemone", asked, key=key)[0] == 401
            assert server.ask("/openapi.json", key=key)[0] == 401
        assert server.ask("/health", key=None) == (200, {"status": "ok"})
        status, answer = server.ask("/v1/systemone", asked, key=server.key)
        shares = answer["answers"]["rating"]["probabilities"]
        assert status == 200 and list(shares) == list(MAPPING) and sum(shares.values()) == pytest.approx(1)
        status, described = server.ask("/openapi.json", key=server.key)
        assert status == 200 and set(described["paths"]) == {"/health", "/v1/systemone", "/v1/chat/completions"}
        curl = next(line for line in server.printed.splitlines() if line.startswith("curl "))
        assert json.loads(shlex.split(curl)[-1]) == body
        code = next(line for line in server.printed.splitlines() if line.startswith("import "))
        by_python = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert list(json.loads(by_python)["answers"]["rating"]["probabilities"]) == list(MAPPING)
        for block in blocks(ROOT / "docs/decision-model.md", "python"):
            found: dict[str, Any] = {}
            exec(block.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace("KEY", server.key), found)
            assert list(found["probabilities"]) == list(MAPPING)
        (by_curl,) = [block for block in blocks(ROOT / "docs/decision-model.md", "sh") if block.startswith("curl ")]
        assert server.ask("/v1/systemone", json.loads(shlex.split(by_curl)[-1]), key=server.key)[0] == 200
        assert server.interrupt() == (0, "stopped\n", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_it_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    path = tiny.make(tmp_path / "m.gguf", width=256, layers=4, context=4096)
    with running(path) as server:
        assert "note: not a decision model: /v1/systemone is not offered, /v1/chat/completions is" in server.printed
        asked = served_file(path).body | {"max_tokens": 3}
        assert server.ask("/v1/chat/completions", asked, key=server.key)[0] == 200
        long = {"prompt": "cough", "n_predict": 100_000, "ignore_eos": True, "stream": True}
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("POST", "/completion", json.dumps(long), headers)
            with connection.getresponse() as answer:
                assert answer.read(5) == b"data:"
                assert server.interrupt() == (0, "stopped\n", "")


def test_lines_that_are_typed_hold_any_label() -> None:
    body = {"state": 'it\'s "x"', "questions": {"rating": {"criteria": {"Ωmega's": None}}}}
    address = Address("http://127.0.0.1:1", "k")
    assert json.loads(shlex.split(address.curl("/v1/systemone", body))[-1]) == body
    compile(address.python("/v1/systemone", body), "line", "exec")


def test_what_cannot_be_served_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no such file; give the output folder of a finished run, or a GGUF"):
        served_file(tmp_path / "absent.gguf")
    with pytest.raises(UsageError, match="holds no tuned product; give another folder"):
        served_file(tmp_path)
    path = tiny.make(tmp_path / "m.gguf")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as stopped:
            main(["serve", str(path), "--port", port])
    assert stopped.value.code == UsageError.exit_code
    assert re.fullmatch(
        rf"error: --port {port}: cannot be used \(.*\); choose another, or 0\n", capsys.readouterr().err
    )


@pytest.mark.slow
def test_unended_requests_are_cut_off_and_keep_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PAUSE_SECONDS", 1)
    served = served_file(decision_models.make(tmp_path / "m.gguf"))
    with closing(start(served, threads=1)) as server, ExitStack() as stack:
        half = f"POST /v1/systemone HTTP/1.1\r\nAuthorization: Bearer {server.key}\r\nContent-Length: 9\r\n\r\n{{"
        address = ("127.0.0.1", server.address.port)
        unended = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(100)]
        for each, sent in zip(unended, (half.encode(), b"POST /v1") * 50, strict=True):
            each.sendall(sent)
        assert list(server.ask("/v1/systemone", served.body)["answers"]["rating"]["probabilities"])
        for each in unended:
            while each.recv(1000):  # an error, or nothing
                pass
