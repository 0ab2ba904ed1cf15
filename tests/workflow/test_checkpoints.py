"""A finished run leaves no checkpoints, whatever it made; a stopped one keeps what --resume needs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from easy_records import easy_records
from expertune.errors import FineTuningNotSupportedError, Interrupted, TrainingFailedError, UsageError
from expertune.files import sha256
from expertune.fine_tuner import FineTuner
from expertune.train.loop import Trainer
from expertune.tuned import check

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "examples/base.gguf"
TOPIC = "respiratory infections"
QUICK: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 2, "rank": 8, "batch_size": 4, "class_weight": "none",
                         "bootstrap_resamples": 100, "model_set_budget_seconds": 2, "compute_dtype": "fp32",
                         "threads": 1, "approach": "tune"}  # fmt: skip


def tune(folder: Path, model: str = str(BASE), *, fallback: bool = True, resume: bool = False, **more: Any) -> Any:
    tuner = FineTuner(fallback_mode=fallback, quiet=True)
    _, metadata = tuner.process_dataset(easy_records(), model, None, TOPIC, folder, resume=resume, **{**QUICK, **more})
    return metadata


def models(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*model*.gguf*")}


@pytest.mark.slow
@pytest.mark.parametrize("fallback", [True, False])
def test_a_file_that_loses_to_its_base_leaves_nothing(
    fallback: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict on the validation records is forced where it falls; the file that loses is a real one."""
    seen = []

    def never_better(*given: Any) -> float:
        seen.append(models(tmp_path))
        return 0.5

    monkeypatch.setattr(check, "dev_macro_f1", never_better)
    if fallback:
        found = tune(tmp_path, epochs=0.5)["fallback_reason"]
    else:
        with pytest.raises(TrainingFailedError) as caught:
            tune(tmp_path, fallback=False, epochs=0.5)
        found = str(caught.value)
    assert found.startswith("the tuned model is not better than its base")
    assert seen[0] == {"checkpoints/fine_tuned_model.gguf"}  # there was one to leave behind
    assert not (tmp_path / "checkpoints").exists() and not models(tmp_path)


@pytest.mark.slow
def test_a_set_in_the_folder_of_an_earlier_run(tmp_path: Path) -> None:
    """A tool of another version, or a killed run, has left a model there."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/fine_tuned_model.gguf").write_bytes(b"left")
    assert tune(tmp_path, "llama2")["fallback_reason"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_stopped_training_is_kept_until_it_was_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = Trainer.one_step

    def stopped_at_the_third(self: Trainer) -> Any:
        event = one_step(self)
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return event

    monkeypatch.setattr(Trainer, "one_step", stopped_at_the_third)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        tune(tmp_path)
    monkeypatch.setattr(Trainer, "one_step", one_step)
    (kept,) = (tmp_path / "checkpoints").rglob("*.pt")
    before = [sha256(path) for path in (kept, tmp_path / "training_config.yaml")]

    with pytest.raises(UsageError, match=r"--resume: not the settings of the run .*: rank \(4, there 8\); repeat"):
        tune(tmp_path, rank=4, resume=True)
    with pytest.raises(
        FineTuningNotSupportedError, match=r"llama2.*; the stopped training is kept: --resume continues"
    ):
        tune(tmp_path, "llama2", resume=True)
    assert before == [sha256(path) for path in (kept, tmp_path / "training_config.yaml")]
    assert not (tmp_path / "model_set_config.json").exists()

    steps = (tmp_path / "training_events.jsonl").read_text().count('"step", ')
    metadata = tune(tmp_path, resume=True)
    after = (tmp_path / "training_events.jsonl").read_text().count('"step", ')
    assert after - steps == metadata["training"]["steps"] - 3
    assert not (tmp_path / "checkpoints").exists() and models(tmp_path) == {"fine_tuned_model.gguf"}


def test_a_damaged_checkpoint_stops_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/none/training.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"training\.pt: damaged .*; remove it and start without --resume"):
        tune(tmp_path, resume=True)
    assert path.exists() and not (tmp_path / "training_config.yaml").exists()
