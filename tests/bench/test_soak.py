"""The bench of faults: a job is killed at its point, what it then leaves is judged, and figures are summed up."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import load
import pytest
import soak
import soak_fuzz
from soak_fork import Killed, Point, Used, fork

from review_page.pages import raw_file

linux = pytest.mark.skipif(sys.platform != "linux", reason="the bench uses the processor-time clocks of Linux")
pytestmark = [linux, pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")]  # threads of other tests
LETTERS = "abcdefghij"


class Writing:
    """A job that makes ten files, one after the other; `how` is what is wrong with it."""

    name, kills, records = "writing", 3, 10

    def __init__(self, inputs: Path, how: str = "") -> None:
        self.inputs, self.how = inputs, how

    def begin(self, place: Path) -> Path:
        place.mkdir()
        return place

    def run(self, place: Path) -> None:
        for letter in LETTERS:
            if not (place / letter).exists() or self.how == "doubles":
                with open(place / "all", "a") as file:
                    file.write(letter)
            part = place / (letter if self.how == "half" else f".{letter}.0.tmp")
            part.write_text("")
            part.write_text(letter)
            part.replace(place / letter)

    def outputs(self, place: Path) -> dict[str, str]:
        return {each: (place / each).read_text() for each in LETTERS if (place / each).exists()}

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        return ["doubled"] if len((place / "all").read_text()) > len(LETTERS) + kills else []

    def end(self, place: Path) -> None:
        pass


def found(folder: Path, how: str) -> list[dict[str, Any]]:
    stage = Writing(folder, how)
    whole = soak.undisturbed(stage, folder)
    return [soak.trial(stage, whole, folder / f"trial-{seed}", seed) for seed in range(12)]


@pytest.mark.slow
def test_a_job_that_goes_on_has_no_fault(tmp_path: Path) -> None:
    trials = found(tmp_path, "")
    assert sum(sum(each["kills"].values()) for each in trials) >= 12
    assert {name for each in trials for name in each["kills"]} == {"cpu", "file"}
    assert [each["faults"] for each in trials] == [[]] * 12


@pytest.mark.slow
@pytest.mark.parametrize(("how", "fault"), [("half", "half: "), ("doubles", "doubled")])
def test_a_fault_is_seen(tmp_path: Path, how: str, fault: str) -> None:
    assert any(line.startswith(fault) for each in found(tmp_path, how) for line in each["faults"])


def test_the_kill_comes_before_its_operation(tmp_path: Path) -> None:
    def work() -> None:
        for letter in LETTERS:
            (tmp_path / "place" / letter).write_text(letter)

    (tmp_path / "place").mkdir()
    assert fork(work, tmp_path / "place", Point("file", 4), seconds=60) == Killed("file")
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["a", "b", "c"]
    ended = fork(work, tmp_path / "place", seconds=60)
    assert isinstance(ended, Used) and (ended.code, ended.operations) == (0, 10)


def test_a_job_that_fails_says_why_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    def work() -> None:
        raise ValueError("broken")

    failed = fork(work, tmp_path, seconds=60)
    assert isinstance(failed, Used) and (failed.code, failed.log) == (70, "ValueError: broken")
    hung = fork(lambda: os.read(os.pipe()[0], 1), tmp_path, seconds=0.2)
    assert isinstance(hung, Killed) and hung.hung


def test_the_tables() -> None:
    stamp = {"machine": "m", "date": "2026-01-01T00:00:00", "commit": "c"}
    kill = {**stamp, "kind": "kill", "stage": "page", "records": 40, "faults": [], "left": []}
    run = {**stamp, "kind": "fuzz", "target": "csv", "crashes": 0, "slow": 0, "peak_mb": 90, "seconds": 2.0}
    entries = [
        {**kill, "kills": {"cpu": 2}}, {**kill, "kills": {"file": 1, "cpu": 1}, "faults": ["lost"], "left": ["a"]},
        {**run, "inputs": 3000}, {**run, "inputs": 1000, "peak_mb": 100},
    ]  # fmt: skip
    said = soak.lines(entries)
    assert "| page | 2 | 4 (3, 1) | 80 | 1 | 1 |" in said
    assert "| csv | 4,000 | 0 | 0 | 100 | 1,000 |" in said


def test_percentiles_by_hand() -> None:
    seconds = [each / 1000 for each in range(1, 201)]
    assert [load.percentile(seconds, share) for share in (50, 95, 99)] == [100.0, 190.0, 198.0]
    assert load.percentile([], 50) is None


@pytest.mark.slow
def test_a_load_counts_answers_errors_and_what_slow_and_broken_clients_did(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the page's packages are not installed (expertune[page])")

    given = argparse.Namespace(clients=3, slow=2, broken=1, pause=0.01, minutes=1.5 / 60)
    with load.serve_page(tmp_path, raw_file(tmp_path, 3000)) as served:
        for _ in range(20):  # a machine with other work may not answer in so short a time
            found = asyncio.run(load.load(served, load.rater, given))
            if found["answers"]:
                break
        given.minutes = 0.0
        nothing = asyncio.run(load.load(served, load.rater, given))
        seen = load.Seen(pause=0.0)
        assert asyncio.run(refused(served, seen)) is None
    assert found["answers"] > 0 and found["errors"] == {} and found["running"]
    assert found["others"]["broken"] > 0 and found["memory_mb"][0] > 0
    assert nothing["answers"] == 0 and nothing["memory_mb"][0] > 0
    assert seen.errors == {"status 404": 1} and seen.seconds == []


async def refused(served: load.Served, seen: load.Seen) -> str | None:
    with closing(load.Client(served.port)) as client:

        async def once() -> str:
            raise ValueError(f"status {(await client.ask('GET', '/wrong'))[0]}")

        return await load.timed(seen, once)


def test_the_corpus_is_not_cut() -> None:
    """The start of an SQLite file is no SQLite file: inputs made of it would all be refused at the first byte."""
    sizes = {path: path.stat().st_size for name in soak_fuzz.TARGETS for path in (soak_fuzz.CORPUS / name).iterdir()}
    assert sizes and max(sizes.values()) <= soak_fuzz.LONGEST
