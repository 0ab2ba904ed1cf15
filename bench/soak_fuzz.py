"""Coverage-guided inputs for the readers of files, in runs of a bounded number (tests/fuzz.py, atheris)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runs import ROOT, Entry, append_result, read_results, stamp

sys.path.insert(0, str(ROOT / "tests"))
from fuzz import MEMORY, SECONDS, TARGETS

CORPUS = ROOT / "tests" / "data" / "corpus"
RUN = 250_000  # inputs of one process
LONGEST = 8192  # bytes of an input: the journals of the corpus have up to 7,680
WALL_SECONDS = 3600  # of an input: a process that is paused for another bench does not hang


def fuzz_targets(names: Sequence[str], inputs: int, until: float, folder: Path, kept: Path | None, file: Path) -> None:
    """Run each target until the file of results has so many inputs of it, or the time is over."""
    if subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True, check=False).returncode:
        raise SystemExit("atheris is not installed here; install it with: pip install atheris")
    for name in names or TARGETS:
        done = sum(each["inputs"] for each in read_results(file) if each.get("target") == name)
        place = (kept or folder) / name
        place.mkdir(parents=True, exist_ok=True)
        while done < inputs and time.monotonic() < until:
            found = fuzz_run(name, min(RUN, inputs - done), until - time.monotonic(), place, folder)
            append_result(file, {**stamp(), **found})
            print(found)
            done += found["inputs"]
            if found["crashes"] or found["slow"]:  # to look at: the next run would stop at the same input
                break


def fuzz_run(name: str, inputs: int, seconds: float, place: Path, folder: Path) -> Entry:
    """One process; its crash, if any, is kept next to what it has found."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    path = os.pathsep.join(
        [str(ROOT / "src"), str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    limits = [
        f"-runs={inputs}",
        f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={LONGEST}",
        f"-timeout={WALL_SECONDS}",
    ]
    memory = [f"-rss_limit_mb={4 * MEMORY >> 20}", "-print_final_stats=1", f"-artifact_prefix={place}-"]
    command = [sys.executable, str(ROOT / "tests" / "fuzz.py"), name, str(place), str(CORPUS / name), *limits, *memory]
    start = time.perf_counter()
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch)}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    took, said = time.perf_counter() - start, ended.stdout.decode(errors="replace")
    shutil.rmtree(scratch)
    slow = "TooSlow" in said or "ALARM" in said
    crashed = ended.returncode != 0 and not slow
    if ended.returncode:
        (place.parent / f"{name}.log").write_text(said[-20_000:])
    return {"kind": "fuzz", "target": name, "inputs": _stat(said, "number_of_executed_units"), "crashes": int(crashed),
            "slow": int(slow), "limit_s": SECONDS, "peak_mb": _stat(said, "peak_rss_mb"),
            "seconds": round(took, 1)}  # fmt: skip


def _stat(said: str, name: str) -> int:
    found = re.findall(rf"stat::{name}:\s+(\d+)", said)
    return int(found[-1]) if found else 0
