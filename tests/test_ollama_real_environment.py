"""What settings of a real Ollama server do to ratings, and what Expertune does about it.

`pytest -m ollama` asks for it. Each test starts servers of its own, with the program that EXPERTUNE_TEST_OLLAMA names,
else `ollama` on the PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

import tiny
from commands import ROOT, expertune
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError
from expertune.files import sha256
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import Replacement, write_model
from expertune.predict.score import Rated
from expertune.rate.artifact import Artifact, load_product
from expertune.rate.registered_sample import RECORDS, write_sample
from expertune.rate.serve import serve
from expertune.ratings.scale import answer_opening
from ollama_contract.templates import TEMPLATE
from rate.stub import SCALE, read_csv, visits, write_csv, write_run

pytestmark = [
    pytest.mark.ollama,
    pytest.mark.skipif(os.name == "nt", reason="ends a group of POSIX processes"),
]
PROGRAM = os.environ.get("EXPERTUNE_TEST_OLLAMA") or shutil.which("ollama")
NAME = "expertune-test-rater"
SHARPER = {"attn_q.weight": 80.0, "attn_output.weight": 30.0}


@contextmanager
def ollama(folder: Path, **environment: str) -> Iterator[str]:
    """A server over `folder`; the host that it listens at."""
    if PROGRAM is None:
        pytest.skip("no program `ollama` to start; EXPERTUNE_TEST_OLLAMA can name one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"HOME": str(folder), "OLLAMA_HOST": host, "OLLAMA_MODELS": str(folder / "models")}
    with open(folder / "serve.log", "ab") as log:
        process = subprocess.Popen(
            [PROGRAM, "serve"],
            env={"PATH": os.environ["PATH"], "LLAMA_ARG_THREADS": "1", **settings, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(host, process)
        yield host
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait(host: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while not _answers(host):
        assert process.poll() is None and time.monotonic() < end, "it does not answer; see serve.log"
        time.sleep(0.1)


def _answers(host: str) -> bool:
    try:
        OllamaServer(host).close()
    except EngineError:
        return False
    return True


def loaded(host: str) -> set[str]:
    with OllamaServer(host) as server:
        return {each["name"] for each in server.ask("GET", "/api/ps")["models"]}


@pytest.fixture
def product(tmp_path: Path) -> Artifact:
    """A run whose model is in the server: random weights, with a sharp attention, so that a rounded cache shows."""
    plain = tiny.make(tmp_path / "plain.gguf", width=256, layers=4, context=1024)
    with LlamaCppEngine(plain, threads=1) as engine:
        prompt = engine.render([{"role": "user", "content": "cough"}])
        answers = engine.spelled(prompt, [answer_opening(label) for label in SCALE.labels])[1]
    favour = sorted({token for answer in answers for token, _ in answer})
    tiny.make(plain, width=256, layers=4, context=1024, favour=favour)
    with GGUFFile(plain) as file:
        sharper = {
            name: Replacement(GGMLQuantizationType.F32, partial(_scaled, file, name, factor))
            for name in file.tensors
            for part, factor in SHARPER.items()
            if part in name
        }
        write_model(tmp_path / "sharp.gguf", file, replaced=sharper, metadata={})
    folder = write_run(tmp_path / "run", tmp_path / "sharp.gguf", registration={"name": NAME, "registered": True})
    with ollama(tmp_path) as host, OllamaServer(host) as server:
        path = folder / "fine_tuned_model.gguf"
        digest = f"sha256:{sha256(path)}"
        server.upload(path, digest, lambda count: None)
        body = {"model": NAME, "files": {path.name: digest}, "template": TEMPLATE}
        assert list(server.stream("/api/create", body))[-1]["status"] == "success"
    return load_product(folder)


def _scaled(file: GGUFFile, name: str, factor: float) -> np.ndarray:
    return np.ascontiguousarray(file.tensor(name) * np.float32(factor)).view(np.uint8)


def rate(product: Artifact, host: str, count: int) -> str:
    """What `expertune rate` says on stderr."""
    new, output = write_csv(product.folder / "new.csv", visits(count)), product.folder / f"{host}.csv"
    ended = expertune("rate", new, "--with", product.folder, "--engine", "ollama", "--output", output, host=host)
    assert ended.returncode == 0, ended.stderr
    assert len(read_csv(output)) == count
    return ended.stderr


def keep_sample(product: Artifact, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    prompts = [row["Prompt"] for row in read_csv(ROOT / "examples/formatted_dataset.csv")[:RECORDS]]
    with serve(product, "ollama", threads=1) as served:
        rated = [Rated.of("", served.scorer.score(prompt).probabilities, SCALE) for prompt in prompts]
        write_sample(product.folder, served.digest, "of this test", prompts, rated)


def test_a_server_that_keeps_nothing_loaded(product: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded once, and unloaded at the end."""
    with ollama(tmp_path, OLLAMA_KEEP_ALIVE="0") as host:
        monkeypatch.setenv("OLLAMA_HOST", host)
        with serve(product, "ollama", threads=1) as served:
            served.scorer.score("cough")
            assert loaded(host) == {f"{NAME}:latest"}
        assert loaded(host) == set()
        before = (tmp_path / "serve.log").read_text().count("starting llama-server")
        rate(product, host, 12)
        assert (tmp_path / "serve.log").read_text().count("starting llama-server") == before + 1
        assert loaded(host) == set()


def test_another_cache_type_is_said(product: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, the same prompts: OLLAMA_KV_CACHE_TYPE changes the answers, and only then a line says so."""
    with ollama(tmp_path) as host:
        keep_sample(product, host, monkeypatch)
        assert "Ollama answers otherwise" not in rate(product, host, 3)
    with ollama(tmp_path, OLLAMA_KV_CACHE_TYPE="q8_0") as host:
        assert "Ollama answers otherwise than at registration (then version of this test)" in rate(product, host, 3)
