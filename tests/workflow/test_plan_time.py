"""The plan of a run's time: printed and kept with what the run took; a limit chooses settings that --resume keeps."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from easy_records import easy_records
from expertune.config import Config
from expertune.errors import Interrupted, UsageError
from expertune.estimate.capability import TrainingThroughput
from expertune.estimate.job import JobPlan, JobSettings, JobStage
from expertune.estimate.run_time import within_time
from expertune.fine_tuner import FineTuner
from expertune.model.memory import RowShape
from expertune.record import read_record
from expertune.train.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "examples/base.gguf"
QUICK: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 2, "rank": 8, "batch_size": 4, "class_weight": "none",
                         "bootstrap_resamples": 100, "compute_dtype": "fp32", "threads": 1,
                         "approach": "tune"}  # fmt: skip


def tune(folder: Path, *, quiet: bool = True, resume: bool = False, **more: Any) -> dict[str, Any]:
    settings = {**QUICK, **more}
    return FineTuner(quiet=quiet).process_dataset(
        easy_records(), str(BASE), None, "topic", folder, resume=resume, **settings
    )[1]


def test_the_search_for_a_model_set_gets_what_is_left() -> None:
    job = JobPlan((JobStage("judge", 30.0), JobStage("report", 5.0)), JobSettings(4, 3.0, 120.0), minutes=5)
    limited = Config(minutes=5)
    assert within_time(limited, job, elapsed=100).model_set_budget_seconds == 120
    assert within_time(limited, job, elapsed=200).model_set_budget_seconds == 300 - 200 - 35
    assert within_time(limited, None, elapsed=200).model_set_budget_seconds == 50
    assert within_time(limited, job, elapsed=400).model_set_budget_seconds == 20
    assert within_time(Config(), job, elapsed=400) == Config()


@pytest.mark.slow
def test_the_plan_is_shown_first_and_kept_with_the_actual_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tune(tmp_path, quiet=False, layers=3)["plan"]
    shown = capsys.readouterr().err
    assert shown.index("Plan: about ") < shown.index("Test records: base model: 0/")
    assert re.search(r"^Training: 0/\d+ \(whole job: \d+ %, .* left\)$", shown, re.M)
    assert "Preparing the training: " not in shown  # the classifier has read the records for it
    assert found["minutes"] is None
    assert [stage["name"] for stage in found["stages"]] == [
        "read", "base", "readout", "load", "train", "validate", "write", "check", "judge", "report"
    ]  # fmt: skip
    assert all(stage["seconds"] > 0 and stage["actual"] > 0 for stage in found["stages"])
    kept = read_record(tmp_path).plan
    assert kept is not None
    assert kept.actual == pytest.approx(sum(stage["actual"] for stage in found["stages"]))
    assert "Test records: all models" in (tmp_path / "report.html").read_text()
    assert "Plan: about " in (tmp_path / "fine_tuner.log").read_text()


@pytest.mark.slow
def test_settings_chosen_by_a_limit_are_those_of_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = Trainer.one_step

    def slow(path: Path, shape: RowShape, config: Config) -> TrainingThroughput:
        return TrainingThroughput(50.0, 1000.0, 0.0, "cpu", "fp32", 1, "cached", False, 0.005, 0.0, 0.1)

    def stopped_at_the_third(self: Trainer) -> Any:
        event = one_step(self)
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return event

    monkeypatch.setattr("expertune.estimate.throughput.probe", slow)
    monkeypatch.setattr(Trainer, "one_step", stopped_at_the_third)
    with pytest.raises(Interrupted):
        tune(tmp_path, minutes=3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Trainer, "one_step", one_step)
    found = tune(tmp_path, resume=True)
    assert found["settings"]["minutes"] == 3
    assert found["settings"]["epochs"] == 2  # as given
    assert found["settings"]["layers"] == found["plan"]["settings"]["layers"] < 6  # auto takes all of these 6


@pytest.mark.slow
def test_too_little_time_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--minutes 0.1: the shortest run takes about"):
        tune(tmp_path, minutes=0.1)
    assert not (tmp_path / "checkpoints").exists()
