from __future__ import annotations

import sys
from pathlib import Path

import pytest
import runs

PAGE = "# Benches\n\ntext\n"


def test_a_line_that_was_left_half_written_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "results" / "job.jsonl"
    assert runs.read_results(path) == []
    runs.append_result(path, {"side": "ours", "seconds": 1})
    with open(path, "a") as file:
        file.write('{"side": "unsloth", "sec')  # killed
    runs.append_result(path, {"side": "trl", "seconds": 2})
    assert [each["side"] for each in runs.read_results(path)] == ["ours", "trl"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_measured_again_replaces_what_was_there() -> None:
    entries = [{"set": "a", "seed": 1, "s": 1}, {"set": "a", "seed": 2, "s": 2}, {"set": "a", "seed": 1, "s": 3}]
    assert [each["s"] for each in runs.latest(entries, "set", "seed").values()] == [3, 2]


def test_a_table_replaces_only_what_is_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    for name, lines in (("a.py", ["| one |"]), ("b.py", ["| two |"]), ("a.py", ["| three |", "| four |"])):
        runs.put_between(page, name, lines)
    assert page.read_text() == (
        f"{PAGE}\n<!-- a.py -->\n| three |\n| four |\n<!-- end -->\n\n<!-- b.py -->\n| two |\n<!-- end -->\n"
    )


@pytest.mark.parametrize(
    ("found", "sign", "said"),
    [
        ({"value": 0.61449, "low": 0.54, "high": 0.6821}, False, "0.614 [0.540 to 0.682]"),
        ({"value": 0.05, "low": -0.01, "high": 0.11}, True, "+0.050 [-0.010 to +0.110]"),
        ({"value": 0.5, "low": None, "high": None}, False, "0.500"),
        ({"value": None, "low": None, "high": None}, False, "–"),
        (None, False, "–"),
    ],
)
def test_figures(found: dict | None, sign: bool, said: str) -> None:
    assert runs.figure(found, sign=sign) == said


@pytest.mark.slow
def test_a_childs_memory_is_that_of_all_below_it(tmp_path: Path) -> None:
    big = "import time; held = bytearray(120_000_000); time.sleep(1.5)"
    code = (
        "import json, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {big!r}], check=True)\n"
        "print('a word before'); print(json.dumps({'done': True}))"
    )
    child = runs.run_child([sys.executable, "-c", code], tmp_path / "log" / "child.log")
    assert (child.code, child.last_json) == (0, {"done": True})
    assert 120 < child.peak_mb < 400


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts what children have used")
def test_a_childs_processor_time_is_counted_not_that_of_waiting(tmp_path: Path) -> None:
    code = "import time\ntime.sleep(0.6)\nwhile time.process_time() < 0.4: pass"
    child = runs.run_child([sys.executable, "-c", code], tmp_path / "child.log")
    assert 0.4 <= child.cpu_seconds < child.seconds


def test_a_child_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    code = "import sys; print('Traceback\\n  more\\nerror: no such file', file=sys.stderr); sys.exit(2)"
    child = runs.run_child([sys.executable, "-c", code], tmp_path / "child.log")
    assert (child.code, child.last_error) == (2, "error: no such file")
    silent = runs.run_child([sys.executable, "-c", "raise SystemExit(5)"], tmp_path / "child.log")
    assert silent.last_error == "exit code 5"


def test_flags_behind_two_dashes_are_the_products() -> None:
    assert runs.split_flags(["--rows", "5", "--", "--epochs", "1"]) == (["--rows", "5"], ["--epochs", "1"])
    assert runs.split_flags(["--rows", "5"]) == (["--rows", "5"], [])


def test_the_line_below_a_table_names_days_commits_and_machines_once() -> None:
    stamps = [{"date": f"2026-11-{day}T01:02:03", "commit": commit, "machine": "2 cores"} for day, commit in
              ((28, "b"), (26, "a"), (27, "b"))]  # fmt: skip
    assert runs.measured_on(stamps) == "2026-11-26 to 2026-11-28, commit a, b, 2 cores."
    assert runs.measured_on(stamps[:1]) == "2026-11-28, commit b, 2 cores."
    assert runs.thread_flags(0) == [] and runs.thread_flags(2) == ["--threads", "2"]
