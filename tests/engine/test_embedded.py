"""The server in this process: closed to others, silent, and gone when it is closed or interrupted."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.llama_cpp.http import JsonClient
from expertune.errors import EngineError

WORDS = "Zanzibar quinquereme"
ANSWERS = ['{"rating": "Match"}', '{"rating": "Unknown"}']


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "model.gguf")


def _get(engine: LlamaCppEngine, path: str, key: str | None, body: str | None = None) -> int:
    address = engine._server.address
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    connection.request("GET" if body is None else "POST", path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("path", ["/props", "/slots", "/tokenize", "/completion", "/apply-template", "/lora-adapters"])
def test_nothing_is_told_without_the_key(model: Path, path: str):
    with LlamaCppEngine(model, threads=1) as engine:
        question = '{"content": "a", "prompt": "a", "messages": []}'
        body = None if path in ("/props", "/slots", "/lora-adapters") else question
        assert _get(engine, path, None, body) == 401
        assert _get(engine, path, "wrong", body) == 401
        assert _get(engine, "/props", engine._server.key) == 200


def test_loopback_only_and_a_new_key_each_time(model: Path):
    with LlamaCppEngine(model, threads=1) as one, LlamaCppEngine(model, threads=1) as other:
        listening = {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        ports = {one._server.address.port, other._server.address.port}
        assert len(ports) == 2 and {a.ip for a in listening if a.port in ports} == {"127.0.0.1"}
        assert one._server.key != other._server.key and len(one._server.key) == 64


def test_nothing_is_printed(model: Path, capfd: pytest.CaptureFixture[str]):
    with LlamaCppEngine(model, threads=1) as engine:
        prompt = engine.render([{"role": "user", "content": WORDS}])
        engine.score(prompt, ANSWERS)
        engine.generate(prompt, max_tokens=5)
        with pytest.raises(EngineError) as caught:
            engine.score(prompt * 100, ANSWERS)
        assert WORDS not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def test_a_forgotten_engine_stops_listening(model: Path):
    engine = LlamaCppEngine(model, threads=1)
    port = engine._server.address.port
    del engine
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port or 0)).close()


def test_a_dropped_connection_is_opened_again(model: Path):
    """The server ends idle connections after some seconds."""
    with LlamaCppEngine(model, threads=1) as engine:
        before = engine.tokenize("cough")
        for connection in engine._server._client._all:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        assert engine.tokenize("cough") == before


def test_no_server_no_answer():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(EngineError, match="did not answer"):
        JsonClient("127.0.0.1", port, headers={}, connections=1).request("GET", "/props")


@pytest.mark.slow
def test_closing_ends_what_is_under_way(tmp_path: Path):
    """close() from one thread while another waits for a long answer: an error there, no deadlock here."""
    engine = LlamaCppEngine(tiny.make(tmp_path / "model.gguf", width=512, layers=8, context=8192), threads=1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.generate, "cough", max_tokens=8000)
        while engine._free.qsize() and not answer.done():
            time.sleep(0.01)
        time.sleep(0.5)
        assert not answer.done()
        engine.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            answer.result(timeout=30)


@pytest.mark.slow
def test_closing_frees_the_model(tmp_path: Path):
    """Resident memory rises by the model and its context, and falls again."""
    path = tiny.make(tmp_path / "model.gguf", width=512, layers=8, context=4096)
    LlamaCppEngine(path, threads=1).close()  # what stays is loaded once
    process, held, kept = psutil.Process(), [], []
    before = process.memory_info().rss
    for _ in range(4):
        engine = LlamaCppEngine(path, threads=1)
        engine.score("cough " * 200, ANSWERS)
        held.append(process.memory_info().rss - before)
        engine.close()
        kept.append(process.memory_info().rss - before)
    assert min(held) > 60e6, (held, kept)
    # the allocator may keep 20 MB, by what ran before in this process; it must not become more
    assert kept[-1] < 0.5 * held[-1] and kept[-1] - kept[1] < 0.1 * held[0], (held, kept)


INTERRUPTED = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from expertune.engine.llama_cpp.engine import LlamaCppEngine

def rate(i):
    return engine.score(engine.render([{"role": "user", "content": f"record {i} " * 50}]), ['{"a": "x"}', '{"a": "y"}'])

try:
    with LlamaCppEngine(Path(sys.argv[1]), threads=1, slots=2) as engine:
        rate(0)
        print(engine._server.address.port, flush=True)
        if sys.argv[2] == "pool":
            with ThreadPoolExecutor(2) as pool:
                try:
                    jobs = [pool.submit(rate, i) for i in range(5000)]
                    for job in jobs:
                        job.result()
                except KeyboardInterrupt:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        else:
            for i in range(5000):
                rate(i)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("how", ["main", "pool"])
def test_ctrl_c(tmp_path: Path, how: str):
    """In the middle of scoring: the process ends, nothing is left behind, and no thread complains."""
    path = tiny.make(tmp_path / "model.gguf", width=256, layers=4, context=2048)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path), how],
        text=True,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    port = int(child.stdout.readline())
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "interrupted\n", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_waiting_callers_take_turns(model: Path):
    """More threads than connections: each waits for its turn and none is lost."""
    with LlamaCppEngine(model, threads=1) as engine:
        seen: list[int] = []
        threads = [threading.Thread(target=lambda: seen.append(len(engine.tokenize("cough " * 20)))) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 24 and len(set(seen)) == 1
