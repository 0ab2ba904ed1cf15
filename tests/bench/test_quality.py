from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import quality
import runs

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"


def figure(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def entry(seed: int, tuned: float, *, model: str = "base", recommended: str = "tuned", **more: object) -> dict:
    raters = {"tuned": tuned, "base": 0.2, "TF-IDF": 0.6, "majority": 0.1}
    return {
        "set": "visits",
        "model": model,
        "seed": seed,
        "flags": "",
        "records": 0,
        "engine": "llama.cpp",
        "rows": {"train": 350, "dev": 50, "test": 100},
        "recommended": recommended,
        "raters": {
            name: {metric: figure(value) for metric in ("macro_f1", "accuracy", "log_loss")}
            for name, value in raters.items()
        },
        "recommended_less": {"TF-IDF": figure(raters[recommended] - 0.6)},
        "date": "2026-11-26T10:00:00+00:00",
        "commit": "abc",
        "machine": "2 cores",
        "seconds": 60.0,
        **more,
    }


def wanted(seeds: tuple[int, ...], flags: list[str] | None = None, *, engine: str = "llama.cpp") -> list[dict]:
    options = argparse.Namespace(seeds=seeds, sets=["visits"], models=["base"], records=0, engine=engine)
    return list(quality.cells(options, flags or []))


def test_cells_that_are_there_are_not_run_again() -> None:
    there = [entry(42, 0.7), entry(43, 0.7)]
    assert [cell["seed"] for cell in quality.missing(wanted((42, 43, 44)), there, again=False)] == [44]
    assert [cell["seed"] for cell in quality.missing(wanted((42, 43)), there, again=True)] == [42, 43]


def test_a_run_with_other_flags_is_another_cell() -> None:
    with_flags = wanted((42,), ["--epochs", "1"])
    assert quality.missing(with_flags, [entry(42, 0.7)], again=False) == with_flags


def test_a_run_with_another_engine_is_another_cell_and_another_line(tmp_path: Path) -> None:
    by_torch = wanted((42,), engine="torch")
    assert quality.missing(by_torch, [entry(42, 0.7)], again=False) == by_torch
    old = entry(42, 0.7)
    del old["engine"]  # a result from before there was a choice
    runs.append_result(tmp_path / "results.jsonl", old)
    runs.append_result(tmp_path / "results.jsonl", entry(42, 0.8, engine="torch"))
    lines = list(quality.table(quality.read(tmp_path / "results.jsonl")))
    assert any("| base | tuned | 1 | 0.700 [" in line for line in lines)
    assert any("| base, rated by torch | tuned | 1 | 0.800 [" in line for line in lines)


def test_it_says_which_cells_are_of_other_code(capsys: pytest.CaptureFixture[str]) -> None:
    quality.missing(wanted((42,)), [entry(42, 0.7)], again=False)
    assert "1 of 1 cells were measured with another commit" in capsys.readouterr().out


def test_the_table_is_of_means_over_seeds_and_leaves_tries_out() -> None:
    tries = [entry(42, 0.0, flags="--epochs 0.1"), entry(43, 0.0, records=60)]
    lines = list(quality.table([entry(42, 0.1), entry(42, 0.7), entry(43, 0.8, recommended="TF-IDF"), *tries]))
    tuned = next(line for line in lines if "| tuned |" in line)
    assert "| visits (100) | base | tuned | 2 | 0.750 [" in tuned
    assert "| +0.150 |" in tuned  # no interval: in one run it was not the recommended rater
    best = next(line for line in lines if "recommended" in line)
    assert "(tuned 1×, TF-IDF 1×)" in best and "| 2 | 0.650 [" in best
    assert lines[-1].startswith("2 runs, 0.0 hours, 2026-11-26, commit abc")


def test_raters_without_a_model_are_told_once_for_each_set() -> None:
    lines = list(quality.table([entry(42, 0.7), entry(42, 0.5, model="smollm2")]))
    assert sum("| TF-IDF |" in line for line in lines) == 1
    assert sum("| tuned |" in line for line in lines) == 2


@pytest.mark.slow
def test_a_cell_is_run_once_and_its_line_holds_no_text(tmp_path: Path) -> None:
    results = tmp_path / "quality.jsonl"
    command = [sys.executable, str(BENCH / "quality.py"), "--models", "base", "--seeds", "42", "--records", "100"]
    command += ["--threads", "1", "--results", str(results), "--work", str(tmp_path / "work")]
    command += ["--", "--epochs", "2", "--learning-rate", "0.003", "--batch-size", "4", "--approach", "tune"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (only,) = runs.read_results(results)
    assert only["raters"]["TF-IDF"]["log_loss"]["value"] > 0
    assert only["peak_mb"] > 50 and only["recommended"] == "tuned"
    assert "Chief complaint" in (ROOT / "examples" / "formatted_dataset.csv").read_text()
    assert "Chief complaint" not in results.read_text()
    assert not list((tmp_path / "work").glob("visits-base-*/"))  # patient text
