"""`expertune models` and `doctor`: where was looked, what is there, and why a model cannot be tuned."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replies
import tiny
from expertune.capability import Capability, capabilities, capability
from expertune.cli import main
from expertune.engine.ollama_server import OllamaServer
from expertune.fine_tuner import Capability as Reexported
from expertune.fine_tuner import FineTuner
from ollama_contract.server import ContractServer
from replies import Reply, Request, json_reply


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ollama of this machine is seen: a home of its own, and a port where nothing listens."""
    with replies.serving(lambda request: Reply()) as gone:
        pass
    monkeypatch.setenv("OLLAMA_HOST", gone.url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with ContractServer(tmp_path / "models") as server:
        server.add("rater", tiny.make(tmp_path / "a.gguf", layers=1), system="You rate.")
        server.add("team/other:v2", tiny.make(tmp_path / "b.gguf", layers=1, architecture="xverse", seed=1))
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out.splitlines(), err


def test_models_of_the_server(server: ContractServer, capsys: pytest.CaptureFixture[str]):
    code, (where, head, *rows), err = _run(capsys, "models")
    assert (code, err) == (0, "")
    assert where == f"Ollama 0.33.0 at {server.url}"
    assert head.split() == ["name", "family", "parameters", "quantisation", "size", "can", "be", "tuned", "reason"]
    found = {row.split()[0]: row for row in rows}
    assert set(found) == {"rater", "team/other:v2"}
    at = head.index("can be tuned")
    assert found["rater"][at:].strip() == "yes"
    assert found["team/other:v2"][at:].startswith("no ")
    assert "'xverse' cannot be tuned yet" in found["team/other:v2"]


def test_models_of_the_folder(server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    server.close()
    code, (where, _, *rows), _ = _run(capsys, "models")
    assert code == 0
    assert where.startswith(f"{tmp_path / 'models'} (no Ollama server answers at {server.url}")
    assert sorted(row.split()[0] for row in rows) == ["rater", "team/other:v2"]


def test_no_models(capsys: pytest.CaptureFixture[str]):
    code, lines, _ = _run(capsys, "models")
    assert code == 0
    assert lines[0].startswith("No models folder on this disk (no Ollama server answers")
    assert "`ollama pull" in lines[1]


def test_another_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OLLAMA_HOST", "192.0.2.1")  # TEST-NET: a connection would hang
    code, lines, _ = _run(capsys, "models")
    assert code == 0
    assert "another machine" in lines[0]
    assert "--allow-remote" in lines[0]


def _odd(tags: list[dict[str, Any]], shows: dict[str, Reply]):
    def answer(request: Request) -> Reply:
        if request.path == "/api/show":
            return shows[request.json["model"]]
        return json_reply({"models": tags} if request.path == "/api/tags" else {"version": "0.33.0"})

    return answer


def test_a_broken_model_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    good = tiny.make(tmp_path / "good.gguf", layers=1)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:5000])
    shows = {
        "good:latest": json_reply({"modelfile": f"FROM {good}\n"}),
        "cut:latest": json_reply({"modelfile": f"FROM {cut}\n"}),
        "cloud:latest": json_reply({"modelfile": "FROM \n", "remote_host": "https://ollama.com:443"}),
        "away:latest": json_reply({"modelfile": "FROM /models/blobs/sha256-1\n"}),
        "odd:latest": json_reply({"details": 3}),
        "ill:latest": json_reply({"error": "invalid file magic"}, 500),
        "\x1b[2J[bold]gone:latest": json_reply(replies.recorded("show-missing"), 404),
    }
    tags = [{"name": name, "size": 5} for name in shows]
    with replies.serving(_odd(tags, shows)) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        code, (_, head, *rows), _ = _run(capsys, "models")
    at = head.index("can be tuned")
    found = {row.split()[0]: row[at:].split(maxsplit=1) for row in rows}
    assert code == 0
    assert found.pop("good") == ["yes"]
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        ["cut", "cloud", "away", "odd", "ill", "?[2J[bold]gone"], "no"
    )
    reasons = {name: reason for name, (_, reason) in found.items()}
    assert "cut short" in reasons["cut"] or "damaged" in reasons["cut"]
    assert "cloud" in reasons["cloud"]
    assert "container" in reasons["away"]
    assert "unknown form" in reasons["odd"]
    assert "invalid file magic" in reasons["ill"]


def test_on_a_terminal_it_is_a_table(server: ContractServer, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(SystemExit):
        main(["models"])
    assert "rater" in out.getvalue()
    assert "┃" in out.getvalue()


def test_doctor(server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, lines, _ = _run(capsys, "doctor", "--model", "rater")
    assert code == 0
    assert f"{'Ollama':14} {server.url}, version 0.33.0" in lines
    assert f"{'models folder':14} {tmp_path / 'models'}" in lines
    assert f"{'model':14} rater: can be tuned" in lines


def test_doctor_without_ollama(capsys: pytest.CaptureFixture[str]):
    _, lines, _ = _run(capsys, "doctor")
    assert any(line.startswith("Ollama") and "no Ollama server answers at" in line for line in lines)
    assert any(line.startswith("models folder") and "OLLAMA_MODELS" in line for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("command", ["doctor", "models"])
def test_a_folder_that_may_not_be_read(tmp_path: Path, command: str):
    """As root nothing is unreadable, so the child gives up root once it has everything imported."""
    (tmp_path / "models/manifests").mkdir(parents=True)
    (tmp_path / "models").chmod(0)
    code = (
        "import os, grp\nfrom expertune import cli\n"
        f"cli.app(['{command}'], standalone_mode=False)\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        f"cli.main(['{command}'])\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    (tmp_path / "models").chmod(0o700)
    assert f"{tmp_path / 'models'}: you may not read this folder; have your user added" in child.stdout, child.stderr
    assert child.returncode == 0


def test_models_loads_no_torch(server: ContractServer):
    code = (
        "import sys\nfrom expertune.cli import main\n"
        "try:\n    main(['models'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'pandas', 'xllamacpp', 'sklearn'} & set(sys.modules)))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert "rater" in child.stdout
    assert child.stdout.splitlines()[-1] == "[]"


# --- capability ---


def test_capability_asks_the_server_first(server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "absent"))
    found = FineTuner().capability("rater")
    assert (found.tunable, found.reason, found.family) == (True, "can be tuned", "llama")
    assert found.path is not None
    assert found.path.is_relative_to(tmp_path / "models")
    assert FineTuner().check_fine_tuning_capability("rater")
    assert not FineTuner().check_fine_tuning_capability("team/other:v2")
    assert "nearest: rater" in FineTuner().capability("ratter").reason


def test_capability_of_a_path_asks_nobody(server: ContractServer, tmp_path: Path):
    assert FineTuner().capability(str(tmp_path / "a.gguf")).tunable
    assert server.requests == []


def test_capability_without_a_server(server: ContractServer):
    server.close()
    assert FineTuner().capability("rater").tunable
    assert Reexported is Capability


def test_capabilities(server: ContractServer):
    with OllamaServer() as client:
        found = {each.name: can for each, can in capabilities(client)}
        assert found["rater"] == capability("rater", client)
    assert [found[name].tunable for name in ("rater", "team/other:v2")] == [True, False]
