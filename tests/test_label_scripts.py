"""`expertune tune` with labels in other scripts, from the rows to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from label_sets import FILES

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "tests/data/label_scripts"
FELL_BACK = 3  # a tenth of an epoch makes no model that is better than its base


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chinese", "symbol"])  # the other scripts: engine/test_label_scripts.py
def test_the_whole_way(tmp_path: Path, name: str) -> None:
    flags = {
        "input": ROWS / f"{name}.csv",
        "rating-mapping": ROWS / f"{name}.json",
        "model": ROOT / "examples/base.gguf",
        "topics": "t",
        "output-dir": tmp_path / "out",
        "epochs": 0.1,
        "threads": 1,
    }
    command = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "expertune", "tune", *command],
        env=os.environ | {"OLLAMA_HOST": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in (0, FELL_BACK), done.stderr
    metadata = json.loads((tmp_path / "out/fine_tuning_metadata.json").read_text("utf-8"))
    (base,) = [each for each in metadata["evaluation"]["evaluations"] if each["name"] == "base"]
    assert base["rows"] == 12 and sorted(base["labels"]) == sorted(FILES[name])
    assert 0 < base["log_loss"]["value"] < 60, "the base's probabilities of the labels"
