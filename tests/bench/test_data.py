"""The bench of reading, auditing and splitting measures what it says, on records that are always the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runs

import data


@pytest.mark.parametrize("variant", data.VARIANTS)
def test_the_records_are_always_the_same_and_differ_as_the_variant_says(variant: str) -> None:
    rows = list(data.records(300, variant))
    assert rows == list(data.records(300, variant))
    texts = [row["Prompt"] for row in rows]
    with_footer = [text.endswith(data.FOOTER) for text in texts]
    assert all(with_footer) if variant in ("footer", "inline") else not any(with_footer)
    last_lines = {text.splitlines()[-1] for text in texts}
    assert (len(last_lines) == 1) is (variant == "footer")
    assert {row["Standardized_Rating"] for row in rows} == {"1", "0", "-1"}


@pytest.mark.slow
def test_a_child_measures_every_stage_and_the_table_shows_it(tmp_path: Path) -> None:
    results = tmp_path / "data.jsonl"
    command = [sys.executable, data.__file__, "--records", "400", "--variants", "plain", "near", "--results", results]
    subprocess.run([*map(str, command), "--work", str(tmp_path)], check=True, capture_output=True)
    plain, near = runs.read_results(results)
    assert set(plain["stages"]) == set(data.STAGES) and 50 < plain["peak_mb"] < 1000
    assert sum(plain["rows"].values()) == 400
    assert (plain["near_pairs"], plain["findings"]) == (0, {})
    assert 40 < near["near_pairs"] < 300 and near["groups"] < plain["groups"]
    assert not list(tmp_path.glob("*.csv"))
    head, _, *rows = list(data.table([plain, near, plain]))[:4]
    assert [row.split(" | ")[1] for row in rows] == ["plain", "near"]
    assert head.count("|") == rows[0].count("|")
    assert "Chief" not in json.dumps([plain, near])
