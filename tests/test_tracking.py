"""`--log-to`: the numbers of a run reach the libraries, are read back by them, and nothing else does."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expertune.cli.main import main
from expertune.errors import UsageError
from expertune.stats.intervals import Estimate, Interval
from expertune.tracking import TRACKERS, Tracking, check_trackers, final_numbers, numbers_of
from expertune.train.events import DevEvent, StepEvent

ROOT = Path(__file__).resolve().parents[1]
STEP = StepEvent(3, 10, 0.25, 0.75, 0.5, 2.5, 500, 2.0)
DEV = DevEvent(3, 10, 0.5, 0.25, None, 0.625, 0.75, True, 1.0)
TRAIN = {"loss": 0.75, "learning_rate": 0.5, "gradient_norm": 2.5, "epoch": 0.25, "tokens_per_second": 250.0}
VALIDATION = {"loss": 0.5, "label_loss": 0.25, "macro_f1": 0.625, "accuracy": 0.75}
SENT = {f"train/{name}": value for name, value in TRAIN.items()} | {
    f"validation/{name}": value for name, value in VALIDATION.items()
}
Read = Callable[[Path], dict[str, list[tuple[int, float]]]]


def test_only_finite_numbers_are_sent() -> None:
    assert numbers_of(STEP) | numbers_of(DEV) == SENT
    assert "train/loss" not in numbers_of(replace(STEP, loss=math.nan))
    assert "train/tokens_per_second" not in numbers_of(replace(STEP, seconds=0.0))


def test_the_final_figures_are_the_recommended_raters() -> None:
    figure = Estimate(0.75, Interval(0.5, 1.0, "bootstrap", 0.95), 100)
    first = SimpleNamespace(macro_f1=figure, accuracy=Estimate(0.5, None, 100), log_loss=Estimate(None, None, 0))
    found = final_numbers(SimpleNamespace(evaluations=(first, None)))  # type: ignore[arg-type]
    assert found == {"test/macro_f1": 0.75, "test/macro_f1_low": 0.5, "test/macro_f1_high": 1.0, "test/accuracy": 0.5}
    assert final_numbers(SimpleNamespace(evaluations=())) == {}  # type: ignore[arg-type]


def read_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (folder / "tensorboard").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    found: dict[str, list[tuple[int, float]]] = {}
    for tag in events.Tags()["tensors"]:
        found[tag] = [(each.step, float(each.tensor_proto.float_val[0])) for each in events.Tensors(tag)]
    return found


def read_mlflow(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("expertune")
    assert experiment is not None and str(folder) in experiment.artifact_location
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params == {}
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(each.step, each.value) for each in values] for name, values in history.items()}


def read_trackio(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from trackio.sqlite_storage import SQLiteStorage

    assert list((folder / "trackio").glob("expertune*.db"))
    (run,) = SQLiteStorage.get_runs("expertune")
    found: dict[str, list[tuple[int, float]]] = {}
    for row in SQLiteStorage.get_logs("expertune", run):
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, []).append((row["step"], value))
    return found


READERS: dict[str, Read] = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio}


@pytest.mark.parametrize("name", TRACKERS)
# of the libraries and what they import
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_library_reads_back_what_was_sent(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections to other hosts fail every test (conftest.py), and a tracker that fails says so."""
    for variable in [each for each in os.environ if each.startswith(("MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracking/trackio"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")  # with trackio's folder set
    said: list[str] = []
    folder = tmp_path / "tracking"
    tracking = Tracking((name,), folder, said.append)
    for event in (STEP, DEV, replace(STEP, step=4, loss=0.5)):
        tracking.event(event)
    tracking.close()
    assert len(said) == 1 and str(folder) in said[0], said
    assert capsys.readouterr().out == ""
    found = READERS[name](folder)
    assert {tag: dict(values)[3] for tag, values in found.items()} == pytest.approx(SENT)
    assert found["train/loss"] == [(3, 0.75), (4, 0.5)]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_tracker_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    folder, said = tmp_path / "tracking", list[str]()
    folder.mkdir()
    (folder / "tensorboard").write_text("a file, so that no folder can be made there")
    tracking = Tracking(("tensorboard",), folder, said.append)
    tracking.event(STEP)
    tracking.close()
    assert len(said) == 1 and said[0].startswith("warning: tensorboard failed (")


def test_nothing_is_made_without_a_name(tmp_path: Path) -> None:
    tracking = Tracking((), tmp_path / "tracking", print)
    tracking.event(STEP)
    tracking.close()
    assert list(tmp_path.iterdir()) == []


def run_tune(folder: Path, *flags: str) -> Any:
    csv, model = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
    job = ["tune", "--input", str(csv), "--model", str(model), "--topics", "x", "--output-dir", str(folder)]
    with pytest.raises(SystemExit) as end:
        main([*job, *flags])
    return end.value.code


def test_a_missing_library_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert run_tune(tmp_path / "out", "--log-to", "trackio") == UsageError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --log-to trackio needs trackio, which is not installed; run: pip install trackio"
    assert not (tmp_path / "out").exists()


def test_an_unknown_tracker_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tune(tmp_path / "out", "--log-to", "wandb") == UsageError.exit_code
    assert capsys.readouterr().err == "error: log_to: 'wandb' is not one of mlflow, tensorboard, trackio\n"
    assert check_trackers(()) == ()


def test_tuning_without_torch_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run_tune(tmp_path / "out") == UsageError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('needs torch, which is not installed; run: pip install "expertune[train]"')
    assert not (tmp_path / "out").exists()
