"""What people expect of a command line: version, one JSON document, completion, tracebacks on request, the demo."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml

import tiny
from commands import expertune_here
from expertune import __version__
from expertune.cli import demo
from expertune.cli.main import app
from expertune.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
MAPPING = "rating_mapping_metadata.json"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in a home of its own: exit code, stdout, stderr."""
    for name in ("HOME", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def ran(*arguments: object) -> tuple[int, str, str]:
        return expertune_here(*arguments), *capsys.readouterr()

    return ran


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"expertune {__version__}\n", "")


@pytest.mark.slow
def test_check_as_json(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("check", "--input", ROWS, "--json")
    found = json.loads(out)
    assert code == 0 and found["rows"] == 500 and sum(found["by_label"].values()) == 500 and found["findings"] == []
    rows = pd.read_csv(ROWS).head(40)
    again = rows.head(1).assign(Row_ID="again")
    pd.concat([rows, again]).to_csv(tmp_path / "few.csv", index=False)
    _, out, _ = run("check", "--input", tmp_path / "few.csv", "--json")
    by_kind = {each["kind"]: each for each in json.loads(out)["findings"]}
    assert by_kind["few_rows"]["severity"] == "warning"
    assert by_kind["exact_duplicates"]["count"] == 2 and len(by_kind["exact_duplicates"]["row_ids"]) == 2


@pytest.mark.slow
def test_check_says_what_more_ratings_would_bring(run: Run, tmp_path: Path) -> None:
    rows = pd.read_csv(ROWS)
    rows.head(120).to_csv(tmp_path / "some.csv", index=False)
    rows.head(40).to_csv(tmp_path / "few.csv", index=False)
    _, out, _ = run("check", "--input", tmp_path / "some.csv", "--json")
    curve = json.loads(out)["learning_curve"]
    records = [each["records"] for each in curve["points"]]
    assert curve["rater"] == "TF-IDF" and len(records) == 4 and 80 <= records[-1] <= 110
    assert curve["gain"]["records"] == 120 and curve["gain"]["more"] == 100
    _, out, _ = run("check", "--input", tmp_path / "some.csv")
    assert out.splitlines()[-1].startswith("Learning curve (TF-IDF, cross-validated macro-F1): ")
    assert "100 more ratings" in out.splitlines()[-1]
    _, out, _ = run("check", "--input", tmp_path / "few.csv")
    assert out.splitlines()[-1].startswith("no learning curve: it takes 50 to 2,000 records")
    _, out, _ = run("check", "--input", tmp_path / "some.csv", "--no-learning-curve")
    assert "earning curve" not in out


def test_models_as_json(run: Run, tmp_path: Path) -> None:
    tiny.make(tmp_path / "xverse.gguf", architecture="xverse")
    code, out, _ = run("models", BASE, tmp_path / "xverse.gguf", "--quick", "--json")
    good, bad = json.loads(out)["models"]
    assert code == 0 and good["tunable"] is True and bad["tunable"] is False
    assert (good["name"], good["family"], good["bytes"]) == (str(BASE), "llama", BASE.stat().st_size)
    assert good["memory_bytes"] > 1e8 and good["tokens_per_second"] is None
    assert "'xverse' cannot be tuned yet" in bad["reason"] and bad["memory_bytes"] is None
    code, out, _ = run("models", "--json")
    found = json.loads(out)
    assert code == 0 and found["models"] == [] and "no Ollama server answers" in found["source"]


def test_doctor_as_json(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["versions"]["expertune"] == __version__ and found["cores"] == os.cpu_count()
    assert 0 < found["memory_bytes"]["available"] <= found["memory_bytes"]["total"]
    assert "no Ollama server answers" in found["ollama"] and found["models_folders"] == []


def test_an_error_leaves_stdout_empty(run: Run, tmp_path: Path) -> None:
    code, out, err = run("check", "--input", tmp_path / "gone.csv", "--json")
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_debug(name: str) -> None:
    assert "--debug" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    _, _, err = run("check", "--input", tmp_path / "gone.csv", "--debug")
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_the_shell_completes_commands() -> None:
    asked = {"_EXPERTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "expertune me", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['expertune']; from expertune.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["merge-review"], done.stderr


def test_demo_needs_no_make(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job itself is run elsewhere; here it is the script's function that is called, with its arguments."""
    script, calls = importlib.import_module("demo_fine_tuner"), []
    monkeypatch.setattr(script, "run", lambda folder, *, base: calls.append((folder, base)))
    assert run("demo")[0] == run("demo", "here", "--base")[0] == 0
    assert calls == [(Path("outputs/demo"), False), (Path("here"), True)]


def test_the_demo_outside_the_repository_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "REPOSITORY", tmp_path)
    with pytest.raises(UsageError, match="get a copy of the repository"):
        demo.demo(folder=tmp_path)


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    job = ("tune", "--input", ROWS, "--model", BASE, "--topics", "t", "--output-dir", folder, "--threads", "1")
    code, out, err = run(*job, "--dry-run", "--rank", "8", "--epochs", "2", "--compute-dtype", "fp32")
    lines = out.splitlines()
    assert code == 0 and not folder.exists()
    assert lines[0] == "350 training, 50 validation and 100 test records"
    assert lines[1].startswith(f"LoRA of rank 8 on {BASE}: 6 blocks, 2 epochs") and lines[1].endswith(
        "fp32 on cpu, 1 threads"
    )
    assert lines[2].startswith("Plan: about ") and any(line.strip().startswith("Training ") for line in lines)
    assert "Plan:" not in err and "Test records: base model" not in err


@pytest.mark.slow
def test_a_dry_run_with_a_limit_shows_the_settings_that_it_would_choose(run: Run, tmp_path: Path) -> None:
    job = ("tune", "--input", ROWS, "--model", BASE, "--topics", "t", "--output-dir", tmp_path / "out")
    code, out, _ = run(*job, "--dry-run", "--minutes", "60")
    assert code == 0 and "(limit: 60 minutes)" in out and "adapted layers" in out and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_without_a_tuned_model_says_why(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    job = ("tune", "--input", ROWS, "--topics", "t", "--output-dir", folder, "--dry-run", "--model")
    code, out, _ = run(*job, "llama2")
    assert code == 0 and "No tuned model: llama2: neither a file nor an Ollama model" in out
    assert "A model set would be made in about 120 s" in out
    assert run(*job, "llama2", "--no-fallback")[0] == 1
    assert "--approach model-set" in run(*job, BASE, "--approach", "model-set")[1]
    assert not folder.exists()


def test_a_dry_run_is_refused_where_the_run_would_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fine_tuning_metadata.json").write_text("{}")
    (tmp_path / "training_config.yaml").write_text(yaml.safe_dump({"run": {}, "settings": {"rank": 4}}))
    job = ("tune", "--input", ROWS, "--model", BASE, "--topics", "t", "--output-dir", tmp_path, "--dry-run")
    code, _, err = run(*job)
    assert code == 2 and "holds a finished run" in err and "--overwrite" in err
    code, _, err = run(*job, "--overwrite", "--resume")
    assert code == 2 and "rank (16, there 4)" in err


@pytest.mark.slow
def test_check_tells_leaks_with_ids_and_what_to_do(run: Run, tmp_path: Path) -> None:
    rows = pd.read_csv(ROWS)
    rows["Prompt"] += [f"\nExpert: {value}" if at % 2 else "" for at, value in enumerate(rows["Standardized_Rating"])]
    rows["Queue"] = rows["Standardized_Rating"].map({1: "A", 0: "B", -1: "C"})
    rows["C_BioSense_ID"] = ["P1" if at < 300 else f"Q{at}" for at in range(len(rows))]
    rows.to_csv(tmp_path / "leaks.csv", index=False)
    code, out, _ = run("check", "--input", tmp_path / "leaks.csv", "--rating-mapping", ROWS.parent / MAPPING)
    lines = out.splitlines()
    error = next(line for line in lines if line.startswith("error: "))
    assert code == 2
    assert (
        error.startswith("error: 250 prompts (50% of all) state their own rating; remove it")
        and "(row ids 2, 4," in error
    )
    assert any(line.startswith("warning: column Queue alone predicts the rating") for line in lines)
    assert any(line.startswith("warning: 300 rows (60%) are of one patient, P1;") for line in lines)
    _, out, _ = run("check", "--input", tmp_path / "leaks.csv", "--json")
    kinds = [each["kind"] for each in json.loads(out)["findings"]]
    assert kinds[0] == "rating_in_prompt" and {"column_predicts_rating", "dominant_patient"} <= set(kinds)
