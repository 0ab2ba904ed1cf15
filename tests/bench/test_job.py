from __future__ import annotations

import job
import job_table
import pytest


def entry(side: str, *, run: str = "r1", date: str = "2026-11-26T10:00:00+00:00", **more: object) -> dict:
    figures = {name: {"value": 0.6, "low": 0.5, "high": 0.7} for name in ("macro_f1", "accuracy", "log_loss")}
    return {
        "run": run,
        "side": side,
        "date": date,
        "commit": "abc",
        "machine": "2 cores",
        "load": 0.1,
        "model": "m.gguf",
        "records": "triage",
        "threads": 2,
        "seconds": 100.0,
        "cpu_seconds": 1500.0,
        "peak_mb": 900,
        "stages": {"read": 10.0, "train": 60.0, "export": 20.0, "judge": 5.0, "start and end": 5.0},
        "training": {"steps": 498, "tokens_per_second": 400.0},
        "rows": {"train": 664, "dev": 96, "test": 190},
        "recommended": "tuned",
        "figures": figures,
        "file": {"bytes": 98_000_000, "types": ["Q4_1"]},
        **more,
    }


def lines_of(entries: list[dict], **more: str) -> dict[str, list[str]]:
    lines = [line.split(" | ") for line in job_table.table(entries, job.SIDES, **more) if line.startswith("| ")]
    return {line[0].strip("| "): [each.strip(" |") for each in line[1:]] for line in lines}


def test_a_table_compares_entries_of_one_run_only() -> None:
    entries = [entry("ours", run="other", seconds=1.0), entry("trl-fp32", run="other"), entry("ours", seconds=50.0)]
    assert lines_of(entries)["**whole job, s**"] == ["**50**", "–", "–", "–"]
    assert lines_of(entries, run="other")["**whole job, s**"] == ["**1**", "–", "**100**", "–"]


def test_every_stage_is_counted_once() -> None:
    ours = entry("ours", stages={"read": 10.0, "train": 60.0, "export": 20.0, "teach": 7.0, "start and end": 3.0})
    found = lines_of([ours])
    seconds = [float(row[0]) for name, row in found.items() if name.endswith(", s") and row[0] != "–"]
    assert sum(seconds) == 100 and found["other, s"][0] == "7"


def test_a_side_that_failed_is_named_with_its_reason_and_tried_again() -> None:
    entries = [entry("ours"), {**entry("unsloth"), "not_measured": "train and merge: no module named unsloth"}]
    text = "\n".join(job_table.table(entries, job.SIDES))
    assert "Unsloth, CPU mode: not measured: train and merge: no module named unsloth." in text
    assert job.waiting("r1", job.SIDES, entries, again=False) == ["trl-bf16", "trl-fp32", "unsloth"]
    assert job.waiting("r1", job.SIDES, entries, again=True) == list(job.SIDES)
    assert job.waiting("r2", ["ours"], entries, again=False) == ["ours"]


def test_the_difference_is_to_the_measurement_that_it_was_taken_from() -> None:
    less = {"value": 0.05, "low": -0.01, "high": 0.11}
    peer = entry("trl-fp32", date="2026-11-26T12:00:00+00:00", ours_less_this=less)
    name = "macro-F1, Expertune less this"
    assert lines_of([entry("ours"), peer])[name] == ["–", "–", "+0.050 [-0.010 to +0.110]", "–"]
    newer = entry("ours", date="2026-11-26T13:00:00+00:00")
    assert lines_of([entry("ours"), peer, newer])[name][2] == "–"


def test_a_job_that_was_not_tuned_has_a_column_all_the_same() -> None:
    found = lines_of([entry("ours", training={}, file=None, figures=None)])
    assert (found["training steps"][0], found["file, MB"][0], found["macro-F1"][0]) == ("–", "–", "–")


@pytest.mark.parametrize(("file_type", "name"), [(3, "Q4_1"), (15, "Q4_K_M"), (7, "Q8_0"), (0, "F32"), (None, "Q8_0")])
def test_the_quantiser_is_asked_for_the_bases_type(file_type, name, monkeypatch, tmp_path) -> None:
    header = {} if file_type is None else {"general.file_type": file_type}
    monkeypatch.setattr(job, "read_metadata", lambda path: header)
    assert job.type_of(tmp_path / "base.gguf") == name
