"""The bench of --unlabelled: three parts without a common record, and a table of means over the seeds."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import unlabelled


def entry(seed: int, without: float, more: float) -> dict[str, object]:
    def figures(value: float) -> dict[str, dict[str, float]]:
        return {
            name: {"value": value, "low": value - 0.1, "high": value + 0.1}
            for name in ("macro_f1", "accuracy", "log_loss")
        }

    both = {unlabelled.WITHOUT: figures(without), unlabelled.WITH: figures(more)}
    stamp = {"date": "2026-11-28T00:00:00", "commit": "abc", "machine": "2 cores", "rows": 200}
    less = {"value": more - without, "low": more - without - 0.1, "high": more - without + 0.1}
    return {"model": "smollm2", "rated": 150, "unrated": 150, "seed": seed, **stamp, "figures": both, "less": less}


def test_no_record_is_in_two_parts_and_the_second_has_no_rating(tmp_path: Path) -> None:
    rated, unrated, kept = map(pd.read_csv, unlabelled.parts(tmp_path / "parts", 120, 80, 7))
    ids = [set(part["Row_ID"]) for part in (rated, unrated, kept)]
    assert list(map(len, ids)) == [120, 80, 300] and len(set.union(*ids)) == 500
    assert "Standardized_Rating" in rated and "Standardized_Rating" in kept
    assert not set(unlabelled.RATINGS) & set(unrated)
    again, *_ = map(pd.read_csv, unlabelled.parts(tmp_path / "again", 120, 80, 7))
    other, *_ = map(pd.read_csv, unlabelled.parts(tmp_path / "other", 120, 80, 8))
    assert list(again["Row_ID"]) == list(rated["Row_ID"]) != list(other["Row_ID"])


def test_the_table_has_the_means_over_the_seeds() -> None:
    lines = list(unlabelled.table([entry(42, 0.5, 0.6), entry(43, 0.7, 0.6)]))
    assert "| rated records alone | 2 | 0.600 [" in lines[2] and "| with --unlabelled | 2 | 0.600 [" in lines[3]
    assert "| +0.000 [" in lines[3] and "| – |" in lines[2]
    assert lines[-1] == "200 records kept apart; 2026-11-28, commit abc, 2 cores."


@pytest.mark.slow
def test_a_seed_without_a_tuned_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rated records are too few to tune: that is said, and nothing is written."""
    results = tmp_path / "results.jsonl"
    flags = ["--model", "base", "--rated", "3", "--unrated", "2", "--seeds", "42", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["unlabelled.py", *flags, "--threads", "1", "--results", str(results)])
    assert unlabelled.main() == 1
    asked, said = capsys.readouterr().out.splitlines()
    assert asked == "seed 42 …" and said.startswith("  not measured: ") and not results.exists()
