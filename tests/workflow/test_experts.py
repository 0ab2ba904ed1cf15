"""A run on the ratings of three experts: format, check, adjudicate, tune; their agreement next to the model's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from commands import expertune_here

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
LABELS = {1: "Match", 0: "Does Not Match", -1: "Unknown"}
QUICK = ("--learning-rate", "3e-3", "--epochs", "2", "--rank", "8", "--class-weight", "none", "--approach", "tune",
         "--bootstrap-resamples", "100", "--compute-dtype", "fp32", "--threads", "1", "--no-readout")  # fmt: skip


def raw_export(path: Path, count: int = 160) -> Path:
    """The example visits as an export that three experts rated: R2 errs in every 6th, R3 in every 5th record."""
    visits = pd.read_csv(ROWS).head(count)
    first = visits["Standardized_Rating"].tolist()
    visits["R1"] = [LABELS[value] for value in first]
    visits["R2"] = [LABELS[value if at % 6 else (value + 2) % 3 - 1] for at, value in enumerate(first)]
    visits["R3"] = ["" if at % 7 == 3 else LABELS[value if at % 5 else value % 3 - 1] for at, value in enumerate(first)]
    visits.drop(columns=["Prompt", "Standardized_Rating", "Rationale of Rating"]).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_from_an_export_of_three_experts_to_a_tuned_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, formatted, path = raw_export(tmp_path / "raw.csv"), tmp_path / "formatted.csv", tmp_path / "list.csv"
    experts, topics = ("--column", "rating=R1,R2,R3"), ("--topics", "respiratory infections")
    assert expertune_here("format", raw, "--output", formatted, *topics, *experts) == 0
    assert expertune_here("check", "--input", formatted, "--adjudicate", path, *topics, *experts) == 0
    said = capsys.readouterr().out
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    tied = [row["id"] for row in rows if len({row["R1"], row["R2"], row["R3"]}) == 3]
    assert len(tied) > 3 and f"warning: {len(tied)} of 160 records are left out" in said
    settled = rows[0]["id"]
    rows[0]["adjudicated"] = "Match"
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    settings = (*experts, "--column", f"adjudicated={path}")
    run = ("--input", formatted, "--model", BASE, *topics, "--output-dir", tmp_path / "out", *QUICK, *settings)
    assert expertune_here("tune", *run) in (0, 1)  # a model of 2 epochs may fail a check
    shown = capsys.readouterr()
    metadata = json.loads((tmp_path / "out/fine_tuning_metadata.json").read_text())
    found = metadata["experts"]
    agreement = found["agreement"]
    assert (agreement["records"], agreement["adjudicated"], agreement["tied"]) == (160, 1, len(tied) - 1)
    assert sum(metadata["split"][part] for part in ("train", "dev", "test")) == 160 - len(tied) + 1
    assert metadata["processing_info"]["dataset_size"] == 160 - len(tied) + 1
    assert settled in tied and settled not in shown.err.partition("(ids ")[2].partition(")")[0].split(", ")
    assert f"warning: {len(tied) - 1} of 160 records are left out" in shown.err
    for each in found["ceiling"]:
        assert 0 < each["records"] < metadata["split"]["test"] <= each["all_records"] <= 160
        assert 0 < each["on_test"]["kappa"]["value"] <= 1 and each["model"]["macro_f1"]["n"] == each["records"]
    assert "The experts themselves reach macro-F1 0." in metadata["verdict"]
    assert metadata["verdict"] == metadata["evaluation"]["verdict"]["line"] and metadata["verdict"] in shown.out
    assert "Krippendorff's alpha (nominal): 0." in shown.out
    assert json.loads((tmp_path / "out/report.json").read_text())["experts"] == found
    assert "Agreement of the experts" in (tmp_path / "out/report.html").read_text()
    lines = (tmp_path / "out/training_data.jsonl").read_text(encoding="utf-8").splitlines()
    assert not (set(tied) - {settled}) & {json.loads(line)["id"] for line in lines}
    capsys.readouterr()
    repeat = ("--config", tmp_path / "out/training_config.yaml", "--output-dir", tmp_path / "again", "--dry-run")
    assert expertune_here("tune", *repeat) == 0
    assert f"rating = R1, R2, R3, adjudicated = the list {path}" in capsys.readouterr().err  # as the YAML has it
