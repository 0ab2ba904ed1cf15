"""Records without a rating in a run: rated by the readout or TF-IDF, trained on, counted, and never evaluated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from expertune.fine_tuner import FineTuner
from expertune.ratings import unlabelled as reasons
from expertune.train.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
QUICK: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 2, "rank": 8, "class_weight": "none", "approach": "tune",
                         "bootstrap_resamples": 100, "compute_dtype": "fp32", "threads": 1}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("readout", [True, False])
def test_records_without_a_rating_are_trained_on_and_counted(
    readout: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = [], Trainer.__init__

    def noted(trainer: Trainer, tunable: Any, training: Any, *rest: Any, **more: Any) -> None:
        data.append(training)
        seen(trainer, tunable, training, *rest, **more)

    monkeypatch.setattr(Trainer, "__init__", noted)
    visits = pd.read_csv(ROWS)
    rated, path = visits.head(110), tmp_path / "unrated.csv"
    others = pd.concat([visits.head(4), visits.iloc[300:324]])  # four are rated
    others.drop(columns=["Standardized_Rating", "Rationale of Rating"]).to_csv(path, index=False)
    _, metadata = FineTuner().process_dataset(
        rated, str(BASE), None, "topic", tmp_path / "run", readout=readout, unlabelled=path, **QUICK
    )
    found = metadata["unlabelled"]
    used, left_out = found["used"], found["left_out"]
    assert (found["file"], found["read"], left_out[reasons.RATED]) == (str(path), 28, 4)
    assert used >= 16 and used + sum(left_out.values()) == 28
    assert set(left_out) <= {reasons.RATED, reasons.KEPT_BACK}  # some are of a patient kept back for validation or test
    assert metadata["training"]["unlabelled"] == used and metadata["settings"]["unlabelled"] == str(path)
    assert sum(metadata["split"][part] for part in ("train", "dev", "test")) == 110
    line = f"{used} of 28 records without a rating to train on"
    assert line in capsys.readouterr().err and line in (tmp_path / "run/fine_tuner.log").read_text()
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["unlabelled"] == metadata["unlabelled"] | {"file": path.name}  # no absolute path in the report
    assert str(tmp_path) not in (tmp_path / "run/report.json").read_text()
    assert f"{used} / {28 - used}" in (tmp_path / "run/report.html").read_text()
    lines = (tmp_path / "run/training_data.jsonl").read_text().splitlines()
    assert len(lines) == metadata["split"]["train"]  # of the expert's records alone
    training = data[-1]
    unrated = [row for row in training.train if not row.rated]
    assert len(unrated) == used and training.rated == metadata["split"]["train"]
    for row in unrated:
        shares = training.teacher.soft_labels[row.id]
        assert sum(shares) == pytest.approx(1) and row.label == max(range(3), key=shares.__getitem__)
    assert not {row.id for row in unrated} & {row.id for row in training.dev}
    weights = training.teacher.label_weights  # those by which the teacher itself chooses a label
    assert len(weights) == 3 and min(weights) == 1.0
    assert not readout or list(weights) == list(metadata["readout_info"]["label_weights"].values())
