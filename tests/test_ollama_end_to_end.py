"""The whole way with Ollama, as its user goes it: models → tune --register → rate → compare → remove.

The contract server answers as a real 0.33 was recorded to; test_ollama_real.py goes the same way on a real one.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from commands import expertune, expertune_here
from expertune.engine.ollama.server import OllamaServer
from expertune.files import sha256
from expertune.fine_tuner import FineTuner
from expertune.modelset.config import output_schema
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "examples/formatted_dataset.csv"
BASE = ROOT / "examples/base.gguf"
TOPIC = "respiratory infections"
LABELS = ["Match", "Does Not Match", "Unknown"]
QUICK = {"epochs": 2, "learning-rate": 3e-3, "rank": 8, "batch-size": 4, "class-weight": "none",
         "bootstrap-resamples": 100, "approach": "tune"}  # fmt: skip
FLAGS = [part for name, value in QUICK.items() for part in (f"--{name}", value)]


def start(*arguments: object, host: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "expertune", *map(str, arguments)],
        env=os.environ | {"OLLAMA_HOST": host},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def names(host: str) -> set[str]:
    with OllamaServer(host) as server:
        return {each.name for each in server.models()}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractServer]:
    with ContractServer(tmp_path_factory.mktemp("ollama") / "models") as server:
        server.add("small", BASE, template=TEMPLATE, system="You help.", parameters={"temperature": 0.8}, license="MIT")
        yield server


@pytest.fixture(scope="module")
def run(contract: ContractServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, int]]:
    """`tune --register` once: the folder, what it printed, and the models folder from before."""
    folder, before = tmp_path_factory.mktemp("run"), listing(contract.folder)
    rows = tmp_path_factory.mktemp("rows") / "rows.csv"
    pd.read_csv(ROWS).head(110).to_csv(rows, index=False)
    ended = expertune(
        "tune", "--input", rows, "--no-readout", "--model", "small", "--topics", TOPIC, "--output-dir", folder, *FLAGS,
        "--register", "my-rater", "--force", host=contract.host,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout, before


@pytest.mark.slow
def test_models_says_what_can_be_tuned(contract: ContractServer) -> None:
    ended = expertune("models", host=contract.host)
    assert ended.returncode == 0 and contract.url in ended.stdout.splitlines()[0]
    (line,) = [line for line in ended.stdout.splitlines() if line.strip().startswith("small")]
    assert "llama" in line and "yes" in line


@pytest.mark.slow
def test_what_is_registered_is_the_judged_file(contract: ContractServer, run: tuple[Path, str, dict[str, int]]) -> None:
    folder, said, _ = run
    assert "Registered as my-rater with Ollama 0.33.0" in said and "byte for byte the evaluated file" in said
    metadata = json.loads((folder / "fine_tuning_metadata.json").read_text())
    made = metadata["registration"]
    assert made["registered"] and made["digest"] == sha256(folder / "fine_tuned_model.gguf")
    assert made["agreement"]["labels"] == 1.0 and made["agreement"]["exact"] == made["agreement"]["rows"] > 10
    assert metadata["provenance"]["base"]["prompts_by"] == "Ollama 0.33.0"
    assert names(contract.host) == {"small:latest", "my-rater:latest"} and contract.generator.loaded == {}
    sample = json.loads((folder / "registration_sample.json").read_text())
    assert sample["served"] == made["served"] and len(sample["records"]) == 12


@pytest.mark.slow
def test_the_training_prefix_is_what_the_server_renders(
    contract: ContractServer, run: tuple[Path, str, dict[str, int]]
) -> None:
    """Every training row's prompt was asked of the server, for the base, and of nobody else."""
    folder, _, _ = run
    asked = [each.json for each in contract.requests if each.path == "/api/chat" and "_debug_render_only" in each.json]
    texts = {json.dumps(each["messages"]) for each in asked if each["model"] == "small"}
    rows = [json.loads(line) for line in (folder / "training_data.jsonl").read_text().splitlines()]
    assert rows and all(json.dumps(row["messages"][:-1]) in texts for row in rows)


@pytest.mark.slow
def test_both_ways_of_use_give_the_label_of_the_file(
    contract: ContractServer, run: tuple[Path, str, dict[str, int]], tmp_path: Path
) -> None:
    """`expertune rate` with either engine, and a plain client that sends the same messages to /api/chat."""
    folder, _, _ = run
    new = tmp_path / "new.csv"
    pd.read_csv(ROWS).head(24)[["Row_ID", "Prompt"]].to_csv(new, index=False)
    tables = {}
    for engine in ("llama.cpp", "ollama"):
        output = tmp_path / f"{engine}.csv"
        ended = expertune("rate", new, "--with", folder, "--engine", engine, "--output", output, host=contract.host)
        assert ended.returncode == 0, ended.stderr
        assert "Ollama answers otherwise" not in ended.stderr and contract.generator.loaded == {}
        with open(output, newline="") as file:
            tables[engine] = list(csv.DictReader(file))
    by_file, by_server = tables["llama.cpp"], tables["ollama"]
    assert len(by_file) == len(by_server) == 24
    assert [row["Predicted_Label"] for row in by_file] == [row["Predicted_Label"] for row in by_server]
    for one, other in zip(by_file, by_server, strict=True):
        assert float(one["Confidence"]) == pytest.approx(float(other["Confidence"]), abs=1e-3)

    system = json.loads((folder / "training_data.jsonl").read_text().splitlines()[0])["messages"][0]
    prompts = pd.read_csv(new)["Prompt"]
    clear = [i for i, row in enumerate(by_file) if float(row["Confidence"]) > 0.5][:6]
    assert len(clear) == 6
    with OllamaServer(contract.host) as server:
        for i in clear:
            for messages in (
                [system, {"role": "user", "content": prompts[i]}],
                [{"role": "user", "content": prompts[i]}],
            ):
                body = {"model": "my-rater", "messages": messages, "stream": False, "format": output_schema(LABELS)}
                answer = server.ask("POST", "/api/chat", body | {"options": {"temperature": 0}})
                found = re.search(r'"rating"\s*:\s*"([^"]+)"', answer["message"]["content"])
                assert found and found[1] == by_file[i]["Predicted_Label"]


@pytest.mark.slow
def test_the_modelfile_by_hand_makes_the_same_model(
    contract: ContractServer, run: tuple[Path, str, dict[str, int]]
) -> None:
    """What `ollama create -f Modelfile` reads from it is what registration sent."""
    folder, _, _ = run
    (sent,) = [each.json for each in contract.requests if each.path == "/api/create"][-1:]
    text = (folder / "Modelfile").read_text()
    assert text.startswith("FROM ./fine_tuned_model.gguf\n")
    assert f'TEMPLATE """{sent["template"]}"""' in text
    assert f'SYSTEM """{sent["system"]}"""' in text
    assert "PARAMETER temperature 0.8" in text and "LICENSE MIT" in text


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/blobs", "/api/create", "/api/copy"])
def test_stopped_at_any_step_nothing_is_half_registered(
    contract: ContractServer, run: tuple[Path, str, dict[str, int]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, then by kill -9 (which Windows has not); and then it registers."""
    folder, _, _ = run
    monkeypatch.setenv("OLLAMA_HOST", contract.host)
    name, before = "stopped", names(contract.host)
    code, errors = stopped_at(contract, folder, name, path, signal.SIGINT)
    assert code == 130 and "Ollama's models are unchanged" in errors, errors
    assert names(contract.host) == before
    stopped_at(contract, folder, name, path, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert f"{name}:latest" not in names(contract.host)
    left = [folder / f".{each}.1.tmp" for each in ("registration_sample.json", "fine_tuning_metadata.json")]
    for each in left:
        each.write_text("what a killed process had begun to write", encoding="utf-8")
    assert FineTuner(quiet=True).register_model(folder, name, force=True)["registered"]
    assert not any(each.exists() for each in left)
    assert names(contract.host) == before | {f"{name}:latest"}
    with OllamaServer(contract.host) as server:
        server.delete(name)


def stopped_at(contract: ContractServer, folder: Path, name: str, path: str, how: signal.Signals) -> tuple[int, str]:
    """The exit code and errors of a registration that was sent a signal while the server answered `path`."""
    aside = None
    if path == "/api/blobs":  # the server must want the file
        blob = contract.folder / "blobs" / f"sha256-{sha256(folder / 'fine_tuned_model.gguf')}"
        aside = blob.rename(blob.with_suffix(".aside"))
    contract.heal()
    contract.fail(path, "slow", times=1)
    seen = len(contract.requests)
    process = start("register", folder, "--name", name, "--force", host=contract.host)
    while not any(each.path.startswith(path) and each.method == "POST" for each in contract.requests[seen:]):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    contract.heal()
    if aside is not None:
        aside.rename(aside.with_suffix(""))
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["register", "{folder}", "--name", "small"], 1, "is the base itself"),
        (["register", "{folder}", "--name", "my-rater", "--force"], 1, "my-rater: in use in Ollama"),
        (["register", "{folder}", "--name", "no name!"], 2, "no name!"),
        (["register", "{folder}", "--name", "x", "--input", "examples/README.md"], 2, "README.md"),
        (["register", "examples", "--name", "x"], 2, "give the output folder of a finished run"),
        (["rate", "{rows}", "--with", "{folder}", "--engine", "ollama", "--model", "small"], 1, "small"),
    ],
)
def test_refusals_are_one_line(
    contract: ContractServer,
    run: tuple[Path, str, dict[str, int]],
    arguments: list[str],
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OLLAMA_HOST", contract.host)
    ended, errors = refused([each.format(folder=run[0], rows=ROWS) for each in arguments], capfd)
    assert line in errors
    assert ended in (code, 2)
    assert len([each for each in errors.splitlines() if each.startswith("error:")]) == 1
    assert "Traceback" not in errors


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command line, and what it says on stderr."""
    return expertune_here(*arguments), capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "code", "line"),
    [
        ("127.0.0.1:9", 1, "no Ollama server answers at http://127.0.0.1:9"),
        ("192.0.2.7:11434", 2, "--allow-remote"),
    ],
)
def test_no_server_and_another_machine(
    run: tuple[Path, str, dict[str, int]],
    host: str,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    ended, errors = refused(["register", str(run[0]), "--name", "x"], capfd)
    assert ended == code and line in errors


@pytest.mark.slow
def test_removed_it_leaves_the_server_as_it_was(
    contract: ContractServer, run: tuple[Path, str, dict[str, int]]
) -> None:
    _, _, before = run
    with OllamaServer(contract.host) as server:
        server.delete("my-rater")
    assert listing(contract.folder) == before
