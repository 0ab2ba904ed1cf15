"""`expertune models` and `doctor`: where was looked, what is there, and why a model cannot be tuned."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replies
import tiny
from commands import expertune_here
from expertune.cli.main import main
from expertune.cli.models import COLUMNS
from expertune.config import Config
from expertune.engine.ollama.server import OllamaServer
from expertune.estimate.capability import Capability, TrainingThroughput, capabilities, capability
from expertune.estimate.throughput_cache import cache_file
from expertune.fine_tuner import Capability as Reexported
from expertune.fine_tuner import FineTuner
from expertune.model.memory import RowShape
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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with ContractServer(tmp_path / "models") as server:
        server.add("rater", tiny.make(tmp_path / "a.gguf", layers=1), system="You rate.")
        server.add("team/other:v2", tiny.make(tmp_path / "b.gguf", layers=1, architecture="xverse", seed=1))
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


def _table(lines: list[str]) -> list[str]:
    """The rows: what stands before the empty line and the legend."""
    return lines[: lines.index("")] if "" in lines else lines


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    code = expertune_here(*arguments)
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_models_of_the_server(server: ContractServer, capsys: pytest.CaptureFixture[str]):
    code, (where, head, *rows), err = _run(capsys, "models", "--quick")
    assert (code, err) == (0, "")
    assert where == f"Ollama 0.33.0 at {server.url}"
    assert tuple(head.split()) == COLUMNS
    found = {row.split()[0]: row for row in _table(rows)}
    assert set(found) == {"rater", "team/other:v2"}
    tunable, memory, _, rate, time, run = found["rater"][head.index("tunable") :].split()
    assert (tunable, rate, time, run) == ("yes", "–", "–", "–")
    assert float(memory) > 400
    assert found["team/other:v2"][head.index("tunable") :].split()[:4] == ["no", "–", "–", "–"]
    assert "'xverse' cannot be tuned yet" in found["team/other:v2"]


def test_models_of_the_folder(server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    server.close()
    code, (where, _, *rows), _ = _run(capsys, "models", "--quick")
    assert code == 0
    assert where.startswith(f"{tmp_path / 'models'} (no Ollama server answers at {server.url}")
    assert sorted(row.split()[0] for row in _table(rows)) == ["rater", "team/other:v2"]


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
        code, (_, head, *rows), _ = _run(capsys, "models", "--quick")
    found = {row.split()[0]: (row[head.index("tunable") :].split()[0], row) for row in _table(rows)}
    assert code == 0
    assert found.pop("good")[0] == "yes"
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        ["cut", "cloud", "away", "odd", "ill", "?[2J[bold]gone"], "no"
    )
    reasons = {name: reason for name, (_, reason) in found.items()}
    assert "truncated" in reasons["cut"]
    assert "cloud" in reasons["cloud"]
    assert "container" in reasons["away"]
    assert "unknown form" in reasons["odd"]
    assert "invalid file magic" in reasons["ill"]


def test_on_a_terminal_it_is_a_table(server: ContractServer, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "300")
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(SystemExit):
        main(["models", "--quick"])
    assert "rater" in out.getvalue()
    assert "┃" in out.getvalue()
    assert "\nteam/other:v2: " in out.getvalue()
    assert "'xverse' cannot be tuned yet" in out.getvalue()


def test_doctor(server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, lines, _ = _run(capsys, "doctor", "--model", "rater")
    assert code == 0
    assert f"{'Ollama':14} {server.url}, version 0.33.0" in lines
    assert f"{'models folder':14} {tmp_path / 'models'}" in lines
    at = lines.index(f"{'model':14} rater: can be tuned")
    assert re.fullmatch(r" {15}llama, \S+ weights, \S+, [\d.]+ kB", lines[at + 1])
    time = r"[\d.]+ (?:s|min \d+ s|h \d+ min)"
    assert re.fullmatch(rf" {{15}}[\d.]+ MB of memory, [\d,.]+ tokens/s: {time} for 1,000 rows .*, once", lines[at + 2])


def test_doctor_asks_the_server_for_its_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Where only the server was started with OLLAMA_MODELS."""
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    with ContractServer(tmp_path / "theirs") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        _, lines, _ = _run(capsys, "doctor")
        (line,) = [line for line in lines if line.startswith("models folder")]
        assert "the server was asked; it has no models" in line
        server.add("rater", tiny.make(tmp_path / "a.gguf", layers=1))
        _, lines, _ = _run(capsys, "doctor")
        assert f"{'models folder':14} {tmp_path / 'theirs'} (named by the server)" in lines
    with ContractServer(tmp_path / "theirs", path_prefix="/root/.ollama/models") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        _, lines, _ = _run(capsys, "doctor")
        assert f"{'models folder':14} /root/.ollama/models (named by the server; not readable here)" in lines


def test_doctor_without_ollama(capsys: pytest.CaptureFixture[str]):
    _, lines, _ = _run(capsys, "doctor")
    assert any(line.startswith("Ollama") and "no Ollama server answers at" in line for line in lines)
    assert any(line.startswith("models folder") and "OLLAMA_MODELS" in line for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("command", ["doctor", "models"])
def test_a_folder_that_may_not_be_read(tmp_path: Path, command: str):
    """As root nothing is unreadable, so the child gives up root once it has everything imported."""
    (tmp_path / "models/manifests").mkdir(parents=True)
    (tmp_path / "models").chmod(0)
    code = (
        "import os, grp\nfrom expertune.cli import main as cli\n"
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


@pytest.mark.slow
def test_models_loads_no_torch(server: ContractServer):
    code = (
        "import sys\nfrom expertune.cli.main import main\n"
        "try:\n    main(['models', '--quick'])\nexcept SystemExit as end:\n    assert not end.code\n"
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


# --- what training takes ---


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A stopwatch that says 100 tokens a second of every model; the files that were measured."""
    asked: list[Path] = []

    def probe(path: Path, shape: RowShape, config: Config) -> TrainingThroughput:
        asked.append(path)
        return TrainingThroughput(100.0, 250.0, 0.0, "cpu", "fp32", 1, "cached", False)

    monkeypatch.setattr("expertune.estimate.throughput.probe", probe)
    return asked


def test_the_speed_is_measured_once(server: ContractServer, measured: list[Path], capsys: pytest.CaptureFixture[str]):
    code, (_, head, *rows), err = _run(capsys, "models")
    row = next(row for row in _table(rows) if row.startswith("rater"))
    assert code == 0
    assert row[head.index("tokens/s") :].split() == ["100", "41", "min", "40", "s", "–"]  # 250,000 tokens
    assert "1,000 rows of about 250 tokens, once" in rows[-2]
    assert "On three models" in rows[-1]
    assert err.splitlines()[0] == "Measuring rater ..."
    again = _run(capsys, "models")
    assert again[1][2:] == rows
    assert again[2] == ""
    assert len(measured) == 1


def test_names_and_files(server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tiny.make(tmp_path / "c.gguf", qtype="Q8_0")
    _, (_, _, *rows), _ = _run(capsys, "models", "rater", str(file), "ratter", "--quick")
    assert [row.split()[0] for row in _table(rows)] == ["rater", str(file), "ratter"]
    assert rows[1].split()[1:4] == ["llama", "138K", "Q8_0"]
    assert "nearest: rater" in rows[2]
    server.requests.clear()
    assert _run(capsys, "models", str(file), "--quick")[1][0].split()[0] == "name"
    assert server.requests == []


@pytest.mark.slow
def test_the_time_for_a_file(tmp_path: Path, measured: list[Path], capsys: pytest.CaptureFixture[str]):
    file = tiny.make(tmp_path / "c.gguf", context=4096)
    data = Path(__file__).resolve().parent.parent / "examples" / "formatted_dataset.csv"
    code, (head, row, _, about, run, _), _ = _run(capsys, "models", str(file), "--input", str(data))
    assert code == 0
    assert row[head.index("tokens/s") :].split()[0] == "100"
    assert re.search(r"\d s|min", row[head.index("run") :])
    assert run == "Run: the whole run, from reading the records to the report."
    assert re.search(r"on .*formatted_dataset.csv: 3\d\d rows of about \d+ tokens, 5 times", about)


def test_quick_cannot_time_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = _run(capsys, "models", "--quick", "--input", str(tmp_path / "rows.csv"))
    assert code == 2
    assert "--quick" in err


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tiny.make(tmp_path / "a.gguf")
    monkeypatch.setattr("expertune.estimate.capability.free_memory", lambda: 100_000_000)
    found = FineTuner().capability(str(file))
    assert not found.tunable
    assert re.match(r"needs 4\d\d\.\d MB of memory to be tuned and 100\.0 MB are free", found.reason)
    assert "use a computer with 8 GB of memory (or, with --weight-cache dequantized, a GPU with 8 GB)" in found.reason
    assert (found.family, found.quantisation, found.estimate) == ("llama", "F32", None)


def test_a_speed_that_cannot_be_measured_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def probe(path: Path, shape: RowShape, config: Config) -> TrainingThroughput:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr("expertune.estimate.throughput.probe", probe)
    found = FineTuner().capability(str(tiny.make(tmp_path / "a.gguf")), measure=True)
    assert found.tunable
    assert found.notes == ("its speed could not be measured (out of memory)",)


def test_stopped_while_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def probe(path: Path, shape: RowShape, config: Config) -> TrainingThroughput:
        raise KeyboardInterrupt

    monkeypatch.setattr("expertune.estimate.throughput.probe", probe)
    code, _, err = _run(capsys, "models", str(tiny.make(tmp_path / "a.gguf")))
    assert code == 130
    assert err.splitlines()[-1].endswith("a.gguf ...")  # brief work has no closing line
    assert "Traceback" not in err


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"tokens_per_second": 1}}'])
def test_a_broken_cache_is_measured_anew(tmp_path: Path, measured: list[Path], content: str):
    file = tiny.make(tmp_path / "a.gguf")
    FineTuner().capability(str(file), measure=True)
    (key,) = json.loads(cache_file().read_text())
    assert cache_file().stat().st_mode & 0o777 == 0o600
    cache_file().write_text(content.replace("KEY", key))
    found = FineTuner().capability(str(file), measure=True)
    assert found.estimate is not None
    assert found.estimate.rate is not None
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path, measured: list[Path]):
    (tmp_path / "cache").write_text("a file where the folder should be")
    file = tiny.make(tmp_path / "a.gguf")
    for _ in range(2):
        assert FineTuner().capability(str(file), measure=True).notes == ()
    assert len(measured) == 2


def test_another_file_of_the_name_is_measured_anew(tmp_path: Path, measured: list[Path]):
    for layers in (1, 2):
        FineTuner().capability(str(tiny.make(tmp_path / "a.gguf", layers=layers)), measure=True)
    assert len(measured) == 2
