"""A file that is tuned and judged but not registered: the result is shown, then why, then how to go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tiny
from easy_records import easy_records
from expertune.config import make_config
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import RegistrationError, UsageError
from expertune.files import sha256
from expertune.fine_tuner import FineTuner
from expertune.progress import Progress
from expertune.ratings.dataset import load_dataset
from expertune.record import Registration, RunRecord, read_record
from expertune.register.folder import RegistrationTarget, load_dataset_again, register_result
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "examples/base.gguf"
TOPIC = "respiratory infections"
QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3, "rank": 8, "batch_size": 4, "class_weight": "none",
                         "bootstrap_resamples": 100, "approach": "tune", "threads": 1,
                         "compute_dtype": "fp32", "readout": False}  # fmt: skip
NEVER_HELD_BACK = {"min_label_agreement": 0.0}
Start = Callable[[], ContractServer]


def start_command(arguments: list[str], host: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "expertune", *arguments],
        env=os.environ | {"OLLAMA_HOST": host, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def run_command(arguments: list[str], host: str) -> tuple[int, str, str]:
    process = start_command(arguments, host)
    said, errors = process.communicate(timeout=900)
    return process.returncode, said, errors


def tune_arguments(folder: Path, rows: Path, name: str, **more: Any) -> list[str]:
    given = {key.replace("_", "-"): value for key, value in {**QUICK, **more}.items()}
    settings = [f"--no-{key}" if value is False else f"--{key}={value}" for key, value in given.items()]
    return ["tune", "--input", str(rows), "--model", "small", "--topics", TOPIC, "--output-dir", str(folder),
            *settings, "--register", name]  # fmt: skip


def error_line(errors: str) -> str:
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "Traceback" not in errors
    return line


def check_result_is_shown(said: str, folder: Path) -> None:
    """Verdict first, then the table, then every file."""
    places = [said.index(part) for part in (read_record(folder).verdict, "accuracy", "  tuned", f"Files in {folder}/")]
    assert places[0] == 0 and places == sorted(places)
    files = said[places[-1] :]
    for path in folder.iterdir():
        assert not path.is_file() or path.name in files
    assert "fine_tuned_model.gguf" in files and not (folder / "checkpoints").exists()


def registration_of(folder: Path) -> Registration:
    found = read_record(folder).registration
    assert found is not None
    return found


def names(host: str) -> set[str]:
    with OllamaServer(host) as server:
        return {each.name for each in server.models()}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server over one models folder, with the base in it."""
    started: list[ContractServer] = []

    def make() -> ContractServer:
        server = ContractServer(tmp_path / "models")
        started.append(server)
        if "small:latest" not in names(server.host):
            server.add("small", BASE, template=TEMPLATE)
        return server

    yield make
    for server in started:
        if not server.closing.is_set():
            server.close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "some rows.csv"
    easy_records().to_csv(path, index=False)
    return path


def go_on(line: str, host: str, name: str) -> None:
    """The command that the line ends with, typed as it stands, registers the file."""
    command = shlex.split(line.partition("Continue with: ")[2])
    assert command[:2] == ["expertune", "register"]
    code, said, errors = run_command(command[1:], host)
    assert code == 0 and said.strip().startswith(f"Registered as {name} with Ollama"), errors
    assert f"{name}:latest" in names(host)


# --- by the command line ---


@pytest.mark.slow
def test_a_server_that_went_away_after_training_and_a_file_that_the_gate_holds_back(
    start: Start, rows: Path, tmp_path: Path
) -> None:
    server, folder = start(), tmp_path / "the run"
    process = start_command(tune_arguments(folder, rows, "my-rater", **NEVER_HELD_BACK), server.host)
    while not (folder / "fine_tuned_adapter.gguf").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    server.close()
    said, errors = process.communicate(timeout=900)
    assert process.returncode == 1, errors
    check_result_is_shown(said, folder)
    line = error_line(errors)
    assert f"not registered as my-rater: no Ollama server answers at {server.url}; start it" in line
    assert "--force" not in line and not registration_of(folder).registered
    again = start()
    go_on(line, again.host, "my-rater")
    check_held_back(folder, again.host)


def check_held_back(folder: Path, host: str) -> None:
    """The same run, with a file that fails the quality gate, under another name."""
    content = json.loads((folder / "fine_tuning_metadata.json").read_text())
    content["export"].update(agreement_passed=False, log_loss_limit=-1.0)  # no file is that near to its adapter
    del content["registration"]  # a refusal does not replace the record of a registration that went well
    (folder / "fine_tuning_metadata.json").write_text(json.dumps(content))
    before = names(host)
    code, _, errors = run_command(["register", str(folder), "--name", "other"], host)
    assert code == 1, errors
    line = error_line(errors)
    assert "the saved file's log-loss on" in line and line.endswith("--force registers it anyway")
    told = registration_of(folder)
    assert told.name == "other" and told.registered is False and told.reason and told.reason in line
    assert told.command == f"expertune register '{folder}' --name other --force"
    assert names(host) == before
    go_on(f"Continue with: {told.command}", host, "other")
    assert registration_of(folder).registered


@pytest.mark.slow
def test_a_disk_that_filled_up(start: Start, rows: Path, tmp_path: Path) -> None:
    """Ollama's at the upload, and ours so that the log cannot be written."""
    server, folder = start(), tmp_path / "run"
    server.fail("/api/blobs", "no-space")
    folder.mkdir()
    (folder / "fine_tuner.log").symlink_to("/dev/full")
    code, said, errors = run_command(tune_arguments(folder, rows, "my-rater", **NEVER_HELD_BACK), server.host)
    assert code == 1, errors
    check_result_is_shown(said, folder)
    line = error_line(errors)
    assert "not registered as my-rater: " in line and "the disk of the Ollama server is full" in line
    assert line.endswith(f"Continue with: expertune register {folder} --name my-rater")
    assert line.endswith(registration_of(folder).command or "?")
    (folder / "fine_tuner.log").unlink()
    go_on(line, server.host, "my-rater")


@pytest.mark.slow
def test_ctrl_c_while_it_registers(start: Start, rows: Path, tmp_path: Path) -> None:
    server, folder = start(), tmp_path / "run"
    server.fail("/api/blobs", "slow")
    process = start_command(tune_arguments(folder, rows, "my-rater", **NEVER_HELD_BACK), server.host)
    while not any(each.path.startswith("/api/blobs") and each.method == "POST" for each in server.requests):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    check_result_is_shown(said, folder)
    assert error_line(errors) == (
        "error: stopped; Ollama's models are unchanged and the tuned file is complete; continue with "
        f"expertune register {folder} --name my-rater"
    )
    assert registration_of(folder).reason == "stopped"
    assert names(server.host) == {"small:latest"}


# --- from Python ---


@pytest.mark.slow
def test_process_dataset_returns_the_metadata_of_a_refused_registration(
    start: Start, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder, seen = start(), tmp_path / "run", []
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    server.fail("/api/create", "closed")
    success, metadata = FineTuner(quiet=True).process_dataset(
        pd.read_csv(rows), "small", None, TOPIC, folder, register="my-rater", replace=True,
        on_result=lambda found: seen.append(found.registration), **QUICK, **NEVER_HELD_BACK,
    )  # fmt: skip
    assert not success and seen == [None]
    assert metadata["fine_tuning_info"]["success"] and metadata["evaluation"]["evaluations"]
    told = metadata["registration"]
    assert told["registered"] is False and "cut short" in told["reason"]
    assert told["command"] == f"expertune register {folder} --name my-rater --input FILE --replace"
    assert json.loads((folder / "fine_tuning_metadata.json").read_text()) == metadata
    with pytest.raises(UsageError, match="give its path with --input"):
        FineTuner(quiet=True).register_model(folder, "my-rater")
    assert FineTuner(quiet=True).register_model(folder, "my-rater", pd.read_csv(rows), replace=True)["registered"]

    kept = read_record(folder)
    dataset, target = load_dataset_again(folder, kept, rows), RegistrationTarget("other")
    again = register_result(target, kept, dataset, folder, Progress(quiet=True))
    assert (
        again.registration
        and again.registration.registered
        and names(server.host) == {"small:latest", "my-rater:latest", "other:latest"}
    )
    with pytest.raises(RegistrationError, match="unexpected FileNotFoundError") as caught:
        (folder / "fine_tuned_model.gguf").unlink()
        FineTuner(quiet=True).register_model(folder, "third", pd.read_csv(rows))
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.slow
def test_a_model_set_is_no_success_where_a_name_was_to_be_registered(
    start: Start, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_HOST", start().host)
    settings = {
        "input": rows,
        "model": "llama2",
        "topics": TOPIC,
        "output-dir": tmp_path / "run",
        "bootstrap-resamples": 100,
    }
    flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    code, said, errors = run_command(["tune", *flags, "--register", "my-rater"], os.environ["OLLAMA_HOST"])
    assert code == 3 and said.startswith("No tuned model: "), errors
    assert error_line(errors) == (
        "error: not registered as my-rater: the run made a model set, and only a tuned model can be registered. "
        f"Continue with: expertune rate FILE --with {tmp_path / 'run'}"
    )
    success, metadata = FineTuner(quiet=True).process_dataset(
        rows, "llama2", None, TOPIC, tmp_path / "again", register="my-rater", bootstrap_resamples=100
    )
    assert not success and not metadata["model_set_info"]["success"]  # nothing could rate the test records
    assert metadata["registration"]["registered"] is False
    chosen = RunRecord.model_validate({**metadata, "fallback_reason": None, "registration": None})
    dataset = load_dataset(rows, None, TOPIC, make_config({}))
    refused = register_result(RegistrationTarget("x"), chosen, dataset, tmp_path, Progress()).registration
    assert refused and not refused.registered
    assert (refused.reason or "").endswith("can be registered (--approach tune always tunes)")


def test_what_can_never_be_registered_is_refused_before_the_work(
    start: Start, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = start(), tmp_path / "run"
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    tuner = FineTuner(quiet=True)
    with pytest.raises(UsageError, match="a model set cannot be registered"):
        tuner.process_dataset(rows, "small", None, TOPIC, folder, register="my-rater", approach="model-set")
    with pytest.raises(RegistrationError, match="is the base itself"):
        tuner.process_dataset(rows, "small", None, TOPIC, folder, register="small:latest", replace=True)
    server.add("taken", tiny.make(tmp_path / "tiny.gguf", layers=1), template=TEMPLATE)
    with pytest.raises(RegistrationError, match="taken: in use in Ollama"):
        tuner.process_dataset(rows, "small", None, TOPIC, folder, register="taken")
    assert not folder.exists()
    assert sha256(BASE) == sha256(server.store.find("small").layers["model"])
