"""Kill the stages with kill -9 at random points until each has ended, and feed the readers of files with random inputs.

    python bench/soak.py --kills 200 [--stage train …] [--minutes 30]
    python bench/soak.py --inputs 100000 [--target csv …] [--minutes 30]     (atheris: pip install atheris)
    python bench/soak.py --table

A trial is one job: it is killed at random points (by its processor time, or before an operation on one of its files),
started again, and at last left to end. Its outputs must then be those of a job that nobody disturbed, byte by byte,
with every record once; after a kill, an output is absent or whole. Each trial is a line of bench/results/soak.jsonl,
and a call adds trials until the file has so many kills of each stage, or inputs of each target.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import PAGE, RESULTS, Entry, append_result, put_between, read_results, stamp, table
from soak_fork import Killed, Point, Used, fork

FILE = RESULTS / "soak.jsonl"
TEMPORARY = (".tmp", ".part", ".rows")
HANG = 600.0  # seconds of wall time without an end


@dataclass(frozen=True)
class Undisturbed:
    """Outputs of a job that ran to its end, by name, and the processor time and file operations that it took."""

    outputs: Mapping[str, str]
    used: Used


def undisturbed(stage: Any, folder: Path) -> Undisturbed:
    """Run the job twice: it must give the same outputs, or its trials would mean nothing."""
    found = []
    for at in range(2):
        place = stage.begin(folder / f"whole-{at}")
        ended = fork(lambda place=place: stage.run(place), place, seconds=HANG)
        if isinstance(ended, Killed) or ended.code:
            raise SystemExit(f"{stage.name}: {ended.log if isinstance(ended, Used) else 'hangs'}")
        found.append(Undisturbed(stage.outputs(place), ended))
        stage.end(place)
        shutil.rmtree(place)
    if found[0].outputs != found[1].outputs or not found[0].outputs:
        raise SystemExit(f"{stage.name}: two undisturbed runs differ: {_differing(found[0].outputs, found[1].outputs)}")
    return found[1]


def trial(stage: Any, whole: Undisturbed, place: Path, seed: int) -> Entry:
    """One job, killed up to `stage.kills` times; the faults that were found are lines."""
    draw, start, faults = random.Random(f"{stage.name} {seed}"), time.perf_counter(), list[str]()
    kills: Counter[str] = Counter()
    stage.begin(place)
    while True:
        point = _point(draw, whole.used) if kills.total() < stage.kills else None
        ended = fork(lambda: stage.run(place), place, point, seconds=HANG)
        if isinstance(ended, Used):
            break
        if ended.hung:
            faults.append("hangs")
            break
        kills[ended.by] += 1
        found = stage.outputs(place)
        faults += [f"half: {name}" for name, value in found.items() if whole.outputs.get(name) != value]
    if isinstance(ended, Used) and ended.code:
        faults.append(f"exit {ended.code}: {ended.log}")
    faults += [f"differs: {name}" for name in _differing(stage.outputs(place), whole.outputs)]
    if not any(fault.startswith(("exit", "hangs")) for fault in faults):
        faults += stage.lost_or_doubled(place, kills.total())
    left = sorted({path.name.rsplit(".", 2)[0] for path in place.rglob(".*") if path.suffix in TEMPORARY})
    left += [path.name for path in place.rglob("checkpoints")]
    stage.end(place)
    seconds = round(time.perf_counter() - start, 2)
    return {"kind": "kill", "stage": stage.name, "seed": seed, "kills": dict(kills), "records": stage.records,
            "faults": faults, "left": left, "seconds": seconds}  # fmt: skip


def _point(draw: random.Random, used: Used) -> Point:
    if draw.random() < 0.5:
        return Point("file", draw.randrange(1, max(2, used.operations + 1)))
    return Point("cpu", draw.uniform(0, used.cpu))


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def kill_stages(names: Sequence[str], kills: int, until: float, folder: Path) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before torch: the sums of the runs that are compared
    import soak_stages

    stages = soak_stages.make(folder / "inputs", names)
    try:
        for stage in stages:
            done = [each for each in read_results(FILE) if each.get("stage") == stage.name]
            count, seed = sum(sum(each["kills"].values()) for each in done), len(done)
            if count >= kills or time.monotonic() > until:
                continue
            whole = undisturbed(stage, folder)
            print(f"{stage.name}: {whole.used.cpu:.2f} s of processor time, {whole.used.operations} operations")
            while count < kills and time.monotonic() < until:
                found = trial(stage, whole, folder / "trial", seed)
                count, seed = count + sum(found["kills"].values()), seed + 1
                append_result(FILE, {**stamp(), **found})
                print(f"{stage.name} {seed}: {count} kills, {found['seconds']} s {found['faults']} {found['left']}")
                if found["faults"]:  # to look at
                    shutil.copytree(folder / "trial", folder.parent / f"soak-{stage.name}-{seed}", dirs_exist_ok=True)
                shutil.rmtree(folder / "trial")
    finally:
        for stage in stages:
            stage.close()


def lines(entries: Sequence[Entry]) -> list[str]:
    """The tables of kills and of inputs."""
    if not entries:
        return ["Not measured yet."]
    kills: dict[str, list[Entry]] = {}
    inputs: dict[str, list[Entry]] = {}
    for each in entries:
        (kills if each["kind"] == "kill" else inputs).setdefault(each.get("stage") or each["target"], []).append(each)
    head = ("stage", "jobs", "kills (by time, at a file operation)", "records", "jobs with a fault", "files left")
    rows = []
    for stage, found in kills.items():
        by = sum((Counter(each["kills"]) for each in found), Counter[str]())
        count = f"{by.total():,} ({by['cpu']:,}, {by['file']:,})"
        faults, left = (sum(bool(each[name]) for each in found) for name in ("faults", "left"))
        rows.append((stage, f"{len(found):,}", count, f"{sum(each['records'] for each in found):,}",
                     f"{faults:,}", f"{left:,}"))  # fmt: skip
    result = [*table(head, rows)] if rows else []
    if inputs:
        head = ("reader", "inputs", "crashes", "over 1 s", "peak memory, MB", "inputs/s")
        rows = []
        for target, found in inputs.items():
            total, crashes, slow, seconds = (
                sum(each[name] for each in found) for name in ("inputs", "crashes", "slow", "seconds")
            )
            peak = max(each["peak_mb"] for each in found)
            rows.append((target, f"{total:,}", f"{crashes}", f"{slow}", f"{peak:,}", f"{total / seconds:,.0f}"))
        result += ["", *table(head, rows)]
    last = entries[-1]
    return [*result, "", f"{last['machine']}; {last['date'][:10]}, commit {last['commit']}."]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=0, help="of each stage, with those of earlier calls")
    options.add_argument("--inputs", type=int, default=0, help="of each target, with those of earlier calls")
    options.add_argument("--stage", action="append", default=[], help="this stage only; repeat it")
    options.add_argument("--target", action="append", default=[], help="this target only; repeat it")
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--folder", type=Path, help="where what the fuzzer finds is kept [a temporary folder]")
    options.add_argument("--table", action="store_true", help="put the tables into bench/README.md")
    given = options.parse_args()
    until = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        if given.kills:
            kill_stages(given.stage, given.kills, until, Path(name))
        if given.inputs:
            from soak_fuzz import fuzz_targets

            fuzz_targets(given.target, given.inputs, until, Path(name), given.folder, FILE)
    if given.table:
        put_between(PAGE, "bench/soak.py", lines(read_results(FILE)))


if __name__ == "__main__":
    sys.exit(main())
