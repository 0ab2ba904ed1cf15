"""What the long benches share: children that are timed and weighed, results kept a line at a time, tables in a page.

A result is one JSON object on one line: figures, settings, commit, machine. It never holds the text of a record.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from expertune.cli.options import EXIT_FELL_BACK  # noqa: E402
from expertune.files import write_text  # noqa: E402
from expertune.machine import usable_cores  # noqa: E402

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "bench" / "README.md"
SAMPLE_SECONDS = 0.2
END = "<!-- end -->\n"

Entry = dict[str, Any]


# --- children ---


@dataclass(frozen=True)
class Child:
    """A finished process. `cpu_seconds` is the processor time of it and its children: what else runs on the machine
    lengthens it far less than `seconds`. `peak_mb` is the largest sum of their resident memory, sampled.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    code: int
    said: str
    errors: str

    @property
    def last_json(self) -> Any:
        """Its last line of output as JSON."""
        return json.loads(self.said.strip().splitlines()[-1])

    @property
    def last_error(self) -> str:
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return (lines[-1] if lines else f"exit code {self.code}")[:300]


class ChildFailed(Exception):
    """A stage ended with an error; the message is the last line that it wrote."""


def run_child(command: Sequence[object], log: Path, env: Mapping[str, str] | None = None) -> Child:
    """Run a command to its end; its errors go to `log`, where they can be followed meanwhile."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.with_suffix(".out")
    start, cpu, peak = time.perf_counter(), children_cpu(), 0
    with open(output, "wb") as out, open(log, "wb") as err:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=err, env={**os.environ, **(env or {})}
        )
        try:
            while process.poll() is None:
                peak = max(peak, tree_memory(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLE_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    said, errors = (path.read_text(encoding="utf-8", errors="replace") for path in (output, log))
    seconds, cpu_seconds = time.perf_counter() - start, children_cpu() - cpu
    return Child(round(seconds, 1), round(cpu_seconds, 1), round(peak / 1e6), process.returncode, said, errors)


def children_cpu() -> float:
    """Processor seconds of this process's finished children; 0 where the system does not count them (Windows)."""
    times = psutil.Process().cpu_times()
    return getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def tree_memory(pid: int) -> int:
    """Bytes of resident memory of a process and all below it; what has ended meanwhile counts nothing."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_info().rss
    return total


# --- the product ---


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The bench's own arguments, and behind `--` those that `expertune tune` gets."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def tune(csv: Path, mapping: Path | None, topic: str, model: Path, folder: Path, flags: Sequence[str]) -> Child:
    """`expertune tune` with its default settings and `flags`. Raises ChildFailed where it made nothing."""
    command = [sys.executable, "-m", "expertune", "tune", "--input", csv, "--model", model, "--topics", topic]
    command += ["--output-dir", folder, *(["--rating-mapping", mapping] if mapping else []), *flags]
    # the code beside this bench, and no server that might lend its templates: every run is of the file alone
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    child = run_child(command, folder.parent / f"{folder.name}.log", {"PYTHONPATH": path, "OLLAMA_HOST": "127.0.0.1:9"})
    if child.code not in (0, EXIT_FELL_BACK) and not (folder / "fine_tuning_metadata.json").exists():
        raise ChildFailed(child.last_error)
    return child


def thread_flags(threads: int) -> list[str]:
    """The flag of so many threads; none for 0, every core."""
    return ["--threads", str(threads)] if threads else []


def read_run(folder: Path) -> Entry:
    """What a result keeps of a run's metadata: the raters' figures, how the file came about, seconds by stage."""
    found = json.loads((folder / "fine_tuning_metadata.json").read_text(encoding="utf-8"))
    evaluation, training, export = (found.get(key) or {} for key in ("evaluation", "training", "export"))
    raters = {each["name"]: figures(each) for each in evaluation.get("evaluations", [])}
    differences = {each["second"]: interval_of(each) for each in evaluation.get("differences", [])}
    kept = ("steps", "best_step", "tokens_per_second", "class_weighting", "precision", "base_memory")
    return {
        "rows": {part: found["split"][part] for part in ("train", "dev", "test")},
        "recommended": next(iter(raters), None),
        "fallback": found["fallback_reason"],
        "raters": raters,
        "recommended_less": differences,
        "stages": found["timings"],
        "training": {key: training[key] for key in kept if key in training},
        "file": {"bytes": export["bytes"], "types": [each["type"] for each in export["types"]]} if export else None,
        "settings": found["settings"],
    }


def figures(evaluation: Mapping[str, Any]) -> Entry:
    """Macro-F1, accuracy and log-loss of one rater, each as value, low and high."""
    return {name: interval_of(evaluation[name]) for name in ("macro_f1", "accuracy", "log_loss")}


def interval_of(estimate: Mapping[str, Any]) -> Entry:
    span = estimate["interval"] or {"low": None, "high": None}
    return {"value": estimate["value"], "low": span["low"], "high": span["high"]}


# --- results ---


def read_results(path: Path) -> list[Entry]:
    """All whole lines; one that a killed process left half written is passed over."""
    entries = []
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
    return entries


def append_result(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line, on a line of its own even behind one that was left half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, f"{old}{'' if not old or old.endswith(chr(10)) else chr(10)}{json.dumps(entry)}\n")


def latest(entries: Sequence[Entry], *key: str) -> dict[tuple[Any, ...], Entry]:
    """The last entry of each key: what is measured again replaces what was there."""
    return {tuple(entry[name] for name in key): entry for entry in entries}


def stamp() -> Entry:
    """When, with which code and where; `load` is what else ran meanwhile (processes waiting for a core)."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def commit() -> str:
    """The short name of HEAD; with a plus where src/ differs from it."""

    def git(*words: str) -> str:
        with suppress(FileNotFoundError):  # a lent machine may have no git
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
            return done.stdout.strip()
        return ""

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "--", "src") else ""
    )


def machine() -> str:
    """Cores, processor and the instructions that decide the speed of bf16."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in text]
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{usable_cores()} cores, {model or platform.machine()} ({', '.join(flags)}), {memory} GB"


# --- tables ---


def figure(found: Mapping[str, float | None] | None, digits: int = 3, *, sign: bool = False) -> str:
    """`0.614 [0.540 to 0.682]`, or a dash."""
    if found is None or found["value"] is None:
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:{form}}"
    return f"{found['value']:{form}} [{found['low']:{form}} to {found['high']:{form}}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def measured_on(entries: Sequence[Entry]) -> str:
    """Days, commits and machines of several results: the line below their table."""

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(each[key]) for each in entries}))

    days = sorted(each["date"][:10] for each in entries)
    span = " to ".join(dict.fromkeys((days[0], days[-1])))
    return f"{span}, commit {all_of('commit')}, {all_of('machine')}."


def show_table(lines: Sequence[str], mark: str = "") -> None:
    """Print a table; with a mark also write it into bench/README.md."""
    print("\n".join(lines))
    if mark:
        put_between(PAGE, mark, lines)


def put_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between `<!-- name -->` and the next `<!-- end -->`; both are added where they are absent."""
    text, begin = page.read_text(encoding="utf-8"), f"<!-- {name} -->\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}{END}"
    before, _, rest = text.partition(begin)
    write_text(page, "".join((before, begin, "\n".join(lines), "\n", END, rest.partition(END)[2])))
