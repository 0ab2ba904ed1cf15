"""A folder with a finished run: refused, or replaced as a whole; and a resumed run keeps its settings."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from expertune import outputs
from expertune.cli.main import main
from expertune.config import make_config
from expertune.errors import DatasetError, ModelSetConfigError, UsageError
from expertune.files import sha256
from expertune.fine_tuner import FineTuner
from expertune.outputs import check_resumed
from expertune.record import read_record
from expertune.workflow import choose

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
LOGS = {"fine_tuner.log", "training_events.jsonl"}  # they go on from run to run


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def make(folder: Path, topics: str = "first", **how: bool) -> str:
    """A run that ends in a model set within seconds: its model is not on this machine."""
    rows = pd.read_csv(ROWS).head(90)
    return FineTuner(quiet=True).process_dataset(rows, "llama2", None, topics, folder, **how)[1]["verdict"]


@pytest.mark.slow
def test_tune_into_a_finished_folder_is_refused_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path)
    before = hashes(tmp_path)
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as ended:
            main(["tune", "--input", str(ROWS), "--model", str(BASE), "--topics", "t", "--output-dir", str(tmp_path),
                  *more])  # fmt: skip
        assert ended.value.code == 2
        assert "holds a finished run; choose another --output-dir, or give --overwrite" in capsys.readouterr().err
    assert hashes(tmp_path) == before
    with pytest.raises(UsageError, match="holds a finished run"):
        make(tmp_path, overwrite=False)


@pytest.mark.slow
def test_the_python_interface_replaces_a_run_and_keeps_the_earlier_one_whole(tmp_path: Path) -> None:
    (tmp_path / "formatted_dataset.csv").write_text("the user's own")
    for topics in ("first", "second", "third"):
        make(tmp_path, topics)
        results = {name: found for name, found in hashes(tmp_path).items() if not name.startswith("previous")}
        assert read_record(tmp_path).processing_info.target_topics == topics
        if topics == "second":
            kept = results
    earlier = tmp_path / outputs.EARLIER
    own = {name: found for name, found in kept.items() if name not in (*LOGS, "formatted_dataset.csv")}
    assert hashes(earlier) == own and read_record(earlier).processing_info.target_topics == "second"
    assert (tmp_path / "formatted_dataset.csv").read_text() == "the user's own"
    if os.name != "nt":
        assert (tmp_path / "previous").stat().st_mode & 0o077 == 0 == earlier.stat().st_mode & 0o077


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_earlier_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    before = {name: found for name, found in hashes(tmp_path).items() if name not in LOGS}

    def fails(*given: object, **named: object) -> None:
        raise ModelSetConfigError("as the test wants")

    monkeypatch.setattr(choose, "fit", fails)
    with pytest.raises(ModelSetConfigError):
        make(tmp_path, "second")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} <= LOGS
    assert hashes(tmp_path / outputs.EARLIER) == before


@pytest.mark.slow
def test_a_move_that_was_stopped_goes_on(tmp_path: Path) -> None:
    make(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()} - LOGS
    (tmp_path / outputs.EARLIER).mkdir(parents=True)
    (tmp_path / "model_set_config.json").replace(tmp_path / outputs.EARLIER / "model_set_config.json")
    assert outputs.retire_run(tmp_path)
    assert {path.name for path in (tmp_path / outputs.EARLIER).iterdir() if path.is_file()} == names
    assert not outputs.retire_run(tmp_path)


def test_resume_names_the_settings_that_differ(tmp_path: Path) -> None:
    first = make_config({"rank": 4, "learning_rate": 1e-3, "epochs": 3, "layers": 6, "threads": 2, "device": "cpu"})
    run = {"input": "rows.csv", "model": "m", "topics": "lungs"}
    outputs.write_config(tmp_path / outputs.TRAINING_CONFIG, first, run)
    before = hashes(tmp_path)
    check_resumed(tmp_path, make_config({"rank": 4}), "lungs")  # what was chosen automatically stays
    with pytest.raises(UsageError) as caught:
        check_resumed(tmp_path, make_config({"rank": 8, "seed": 7, "epochs": 3, "learning_rate": 2e-3}), "hearts")
    assert str(caught.value) == (
        f"--resume: not the settings of the run in {tmp_path}: seed (7, there 42), rank (8, there 4), learning_rate "
        "(0.002, there 0.001), topics ('hearts', there 'lungs'); repeat those, or start without --resume"
    )
    with pytest.raises(UsageError, match=r"rank \(16, there 4\)"):
        FineTuner(quiet=True).process_dataset(pd.read_csv(ROWS), str(BASE), None, "lungs", tmp_path, resume=True)
    assert hashes(tmp_path) == before
    check_resumed(tmp_path / "absent", make_config({}), "")


def test_settings_that_a_limit_chose_are_not_held_against_the_command(tmp_path: Path) -> None:
    chosen = make_config({"minutes": 5, "layers": 3, "epochs": 2, "model_set_budget_seconds": 20})
    outputs.write_config(tmp_path / outputs.TRAINING_CONFIG, chosen, {"topics": "t"})
    check_resumed(tmp_path, make_config({}), "t")
    check_resumed(tmp_path, make_config({"minutes": 5}), "t")
    with pytest.raises(UsageError, match=r"minutes \(9.0, there 5.0\)"):
        check_resumed(tmp_path, make_config({"minutes": 9}), "t")


@pytest.mark.slow
def test_a_bad_record_leaves_a_finished_run_where_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    before = {name: found for name, found in hashes(tmp_path).items() if name not in LOGS}
    rows = pd.read_csv(ROWS).head(90)
    rows.loc[7, "Prompt"] = "cough and fever " * 12_500
    with pytest.raises(DatasetError, match="--max-tokens"):
        FineTuner(quiet=True).process_dataset(rows, str(BASE), None, "second", tmp_path)
    assert {name: found for name, found in hashes(tmp_path).items() if name not in LOGS} == before


@pytest.mark.slow
def test_a_model_in_the_folder_that_would_be_replaced_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    model = tmp_path / "fine_tuned_model.gguf"
    model.write_bytes(BASE.read_bytes())
    with pytest.raises(UsageError, match=r"fine_tuned_model.gguf: is in the folder of a finished run; choose another"):
        FineTuner(quiet=True).process_dataset(pd.read_csv(ROWS), str(model), None, "second", tmp_path)
    assert model.exists()
