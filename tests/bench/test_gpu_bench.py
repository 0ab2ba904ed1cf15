"""bench/gpu.py without a GPU: what it says of no measurement, its table, and a dry run of its parity."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest

BENCH = Path(gpu.__file__).parent
STAMP = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "card": "CARD · torch 2", "quick": False}


def line(side: str, rate: float) -> dict[str, object]:
    return {**STAMP, "side": side, "model": "m200", "batch": 4, "tokens_s": rate, "peak_mb": 1000}


def test_the_table_has_no_figure_that_no_card_gave() -> None:
    on_cpu = {**line("Expertune", 9.0), "card": "CPU · torch 2"}
    assert list(gpu.table([on_cpu])) == ["Not measured: no GPU was at hand."]


def test_the_table_compares_the_sides_of_one_call_and_names_what_did_not_run() -> None:
    parity = {"float32": 1e-5, "float32_gradient": 1e-6, "bfloat16": 0.02, "bfloat16_gradient": 0.01}
    found = [
        line("Expertune", 3000.0),
        line("TRL + PEFT", 1000.0),
        {**STAMP, "side": "Unsloth", "error": "ImportError: x"},
        {**STAMP, "parity": "llama", **parity},
    ]
    text = "\n".join(gpu.table([{**line("Unsloth", 9.0), "date": "2025"}, *found]))
    assert "| m200 | 4 | TRL + PEFT | 1,000 | 3.00 | 1,000 |" in text
    assert "| m200 | 4 | Unsloth | – | – | – |" in text
    assert "Unsloth did not run: ImportError: x" in text and "CARD" in text and "| llama | 1e-05 |" in text


@pytest.mark.slow
def test_parity_is_exact_against_itself(tmp_path: Path) -> None:
    command = [sys.executable, BENCH / "gpu_ours.py", "parity", "--work", tmp_path, "--device", "cpu"]
    done = subprocess.run(
        [*map(str, command), "--models", "tiny", "--families", "llama"], capture_output=True, text=True, check=True
    )
    for found in map(json.loads, done.stdout.splitlines()):
        assert found["float32"] == found["float32_gradient"] == 0.0 and 0 < found["bfloat16"] < 0.2
