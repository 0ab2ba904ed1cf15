"""The whole job stage by stage beside the peers' way: seconds, peak memory, quality and size of the finished file.

    python bench/job.py [--csv RATINGS.csv --mapping FILE.json] [--model smollm2] [--threads 0] [--sides …]
        [--peer-python PEER/bin/python] [--unsloth-python UNSLOTH/bin/python]
        [--convert llama.cpp/convert_hf_to_gguf.py] [--llama-quantize FILE] [-- flags of expertune tune]
    python bench/job.py --table

Sides: ours (`expertune tune`, default settings), trl-fp32, trl-bf16 and unsloth (bench/peer_job.py, then llama.cpp's
converter and quantiser). Each side is one line of bench/results/job.jsonl, and is not measured again; lines belong
together where machine, records, model, seed, threads and flags are the same. bench/peer_setup.sh makes the peers'
environments. Without --csv the job is on the example visits. --table writes the table of bench/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import job_table
import runs
import sets
from runs import Child, ChildFailed, Entry

from expertune import outputs
from expertune.config import make_config
from expertune.files import sha256, write_text
from expertune.gguf.read import read_metadata
from expertune.ratings.dataset import load_dataset
from expertune.ratings.examples import training_lines

RESULTS = runs.RESULTS / "job.jsonl"
SIDES = ("ours", "trl-bf16", "trl-fp32", "unsloth")
RATED = "rated.json"


@dataclass(frozen=True)
class Job:
    """One run: what every side of it starts from."""

    options: argparse.Namespace
    flags: list[str]
    records: sets.RatingSet
    model: Path
    threads: int
    work: Path
    facts: Entry

    def folder(self, side: str) -> Path:
        return self.work / side


def main() -> int:
    options, flags = parse(sys.argv[1:])
    if not options.table:
        measure_all(open_job(options, flags))
    runs.show_table(
        list(job_table.tables(runs.read_results(options.results), SIDES)), job_table.MARK if options.table else ""
    )
    return 0


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, flags = runs.split_flags(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="rating file (default: the example visits)")
    parser.add_argument("--mapping", type=Path, help="JSON with its rating_mapping and topic")
    parser.add_argument("--model", default="smollm2", help="smollm2, gemma3, base or a GGUF file")
    parser.add_argument("--model-dir", type=Path, help="where the real models are kept (default: the cache)")
    parser.add_argument("--rows", type=int, default=0, help="only the first records: a try")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0, help="0 is every core")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--again", action="store_true", help="also the sides that are there")
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--unsloth-python", type=Path)
    parser.add_argument("--convert", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--llama-quantize", type=Path, help="without it the peers' files are Q8_0, by the converter")
    parser.add_argument("--peer-flags", default="", help='of bench/peer_job.py, such as "--steps 4" for a try')
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=runs.ROOT / "outputs" / "bench" / "job")
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    return parser.parse_args(own), flags


def open_job(options: argparse.Namespace, flags: list[str]) -> Job:
    if options.csv and not options.mapping:
        raise SystemExit("error: --csv needs --mapping, a JSON file with rating_mapping and topic")
    records = sets.open_set(options.csv, options.mapping, options.csv.stem) if options.csv else sets.visits()
    model = sets.find_model(options.model, options.model_dir)
    threads = options.threads or runs.usable_cores()
    facts = {
        "machine": runs.machine(),
        "model": model.name,
        "model_sha256": sha256(model),
        "records": records.name,
        "records_sha256": sha256(records.csv),
        "rows_wanted": options.rows,
        "seed": options.seed,
        "threads": threads,
        "flags": " ".join(flags),
        "peer_flags": options.peer_flags,
    }
    facts["run"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    work = options.work / facts["run"]
    return Job(options, flags, sets.shortened(records, options.rows, work), model, threads, work, facts)


def measure_all(job: Job) -> None:
    there = runs.read_results(job.options.results)
    for side in waiting(job.facts["run"], job.options.sides, there, again=job.options.again):
        reason = cannot(job, side)
        if reason:
            print(f"{side}: not measured: {reason}", flush=True)
            continue
        print(f"{side} … (logs in {job.folder(side)})", flush=True)
        entry = {**job.facts, **runs.stamp(), "side": side}
        start = time.perf_counter()
        try:
            entry |= ours(job) if side == "ours" else peer(job, side)
        except ChildFailed as error:
            entry["not_measured"] = str(error)
            print(f"  not measured: {error}", flush=True)
        runs.append_result(job.options.results, entry)
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def waiting(run: str, sides: Sequence[str], there: Sequence[Entry], *, again: bool) -> list[str]:
    """The sides of this run that are not there yet; a side that failed is tried again."""
    done = {each["side"] for each in there if each["run"] == run and "not_measured" not in each}
    return [side for side in sides if again or side not in done]


def cannot(job: Job, side: str) -> str | None:
    """Why a side cannot be measured here."""
    if side == "ours":
        return None
    if python_of(job, side) is None:
        return f"give {'--unsloth-python' if side == 'unsloth' else '--peer-python'} (bench/peer_setup.sh)"
    return "give --convert (bench/peer_setup.sh)" if job.options.convert is None else None


def python_of(job: Job, side: str) -> Path | None:
    return job.options.unsloth_python if side == "unsloth" else job.options.peer_python


# --- the sides ---


def ours(job: Job) -> Entry:
    """`expertune tune`; its tuned file is then rated once more by the judge of all sides, outside of the clock."""
    folder = job.folder("ours")
    shutil.rmtree(folder, ignore_errors=True)
    flags = ["--seed", str(job.options.seed), "--threads", str(job.threads), *job.flags]
    child = runs.tune(job.records.csv, job.records.mapping, job.records.topic, job.model, folder, flags)
    found = runs.read_run(folder)
    stages = {**found.pop("stages")}
    stages["start and end"] = round(child.seconds - sum(stages.values()), 1)
    name = found["recommended"]
    measured = {"seconds": child.seconds, "cpu_seconds": child.cpu_seconds, "peak_mb": child.peak_mb}
    entry = {**measured, "stages": stages, **found}
    entry["figures"] = found["raters"].get(name)
    file = folder / outputs.MODEL
    if file.exists():
        entry["file"] = {**found["file"], "bytes": file.stat().st_size}
        entry["judged_alike"] = judge(job, "ours", file).last_json["figures"]
    return entry


def peer(job: Job, side: str) -> Entry:
    """Base as a Hugging Face folder, train and merge, convert, quantise, rate: each stage a process of its own."""
    folder = job.folder(side)
    shutil.rmtree(folder, ignore_errors=True)
    clock = Stages(job, folder)
    python, script = python_of(job, side), runs.ROOT / "bench" / "peer_job.py"
    # the folder is made by the TRL environment for both: they begin with the same weights
    base = [job.options.peer_python or python, script, "base", job.model, folder / "base"]
    clock.run("read", base)
    train = [python, script, "train", folder / "base", training_data(job), folder, "--side", side]
    train += ["--seed", job.options.seed]
    trained = clock.run("train and merge", [*train, *job.options.peer_flags.split()]).last_json
    file, kind = as_gguf(job, clock, folder)
    child = clock.timed("rate", lambda: judge(job, side, file, against=job.folder("ours") / RATED))
    judged = child.last_json
    for name in ("base", "merged"):
        shutil.rmtree(folder / name)
    inner = trained["stages"]
    whole = clock.seconds.pop("train and merge")
    stages = {**clock.seconds, "start and load": round(whole - inner["train"] - inner["merge"], 1)}
    return {
        "seconds": round(sum(clock.seconds.values()) + whole, 1),
        "cpu_seconds": round(clock.cpu_seconds, 1),
        "peak_mb": clock.peak_mb,
        "stages": {**stages, "train": inner["train"], "merge": inner["merge"]},
        "training": {key: trained[key] for key in ("steps", "tokens_per_second", "loss", "dtype")},
        "recommended": "tuned",
        "figures": judged["figures"],
        "ours_less_this": judged["other_less_this"],
        "rows": {"train": trained["rows"], "test": judged["rows"]},
        "file": {"bytes": file.stat().st_size, "types": [kind]},
    }


def training_data(job: Job) -> Path:
    """The product's training_data.jsonl: its training records, with its system text and answers, as chat messages."""
    path = job.work / outputs.TRAINING_DATA
    records, config = job.records, make_config({"seed": job.options.seed})
    prepared = load_dataset(records.csv, records.mapping, records.topic, config)
    write_text(path, "".join(f"{line}\n" for line in training_lines(prepared.examples.train)))
    return path


def as_gguf(job: Job, clock: Stages, folder: Path) -> tuple[Path, str]:
    """The merged folder as a GGUF of the base's own type, or Q8_0 where there is no quantiser."""
    python, quantizer = job.options.peer_python or job.options.unsloth_python, job.options.llama_quantize
    first, last = ("f16", folder / "model-f16.gguf") if quantizer else ("q8_0", folder / "model.gguf")
    clock.run("convert", [python, job.options.convert, folder / "merged", "--outfile", last, "--outtype", first])
    if not quantizer:
        return last, "Q8_0"
    kind = type_of(job.model)
    clock.run("quantise", [quantizer, last, folder / "model.gguf", kind, job.threads])
    last.unlink()
    return folder / "model.gguf", kind


def type_of(model: Path) -> str:
    """The name that llama.cpp's quantiser has for a file's type, such as Q4_1 or Q4_K_M."""
    from gguf import LlamaFileType

    kind = read_metadata(model).get("general.file_type")
    if kind is None:
        return "Q8_0"
    return LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")


class Stages:
    """Seconds by stage and the largest memory of any."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self.seconds: dict[str, float] = {}
        self.cpu_seconds = self.peak_mb = 0.0

    def run(self, name: str, command: Sequence[object]) -> Child:
        """Raises ChildFailed."""
        threads = {"OMP_NUM_THREADS": str(self._job.threads)}
        log = self._folder / f"{name.replace(' ', '-')}.log"
        return self.timed(name, lambda: checked(name, runs.run_child(command, log, threads)))

    def timed(self, name: str, run: Callable[[], Child]) -> Child:
        child = run()
        self.seconds[name], self.peak_mb = child.seconds, max(self.peak_mb, child.peak_mb)
        self.cpu_seconds += child.cpu_seconds
        return child


def judge(job: Job, side: str, file: Path, against: Path | None = None) -> Child:
    """bench/judge_file.py, in a process of its own."""
    script, records = runs.ROOT / "bench" / "judge_file.py", job.records
    command: list[Any] = [sys.executable, script, file, records.csv, "--topic", records.topic]
    command += ["--seed", job.options.seed, "--threads", job.threads, "--out", job.folder(side) / RATED]
    command += ["--mapping", records.mapping] if records.mapping else []
    command += ["--against", against] if against is not None and against.exists() else []
    return checked("rate", runs.run_child(command, job.folder(side) / "rate.log"))


def checked(name: str, child: Child) -> Child:
    if child.code != 0:
        raise ChildFailed(f"{name}: {child.last_error} (its log: {name.replace(chr(32), chr(45))}.log)")
    return child


if __name__ == "__main__":
    raise SystemExit(main())
