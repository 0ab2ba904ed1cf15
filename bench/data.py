"""Reading, auditing and splitting a large rating file: seconds of each stage and peak memory.

    python bench/data.py [--records 100000] [--variants plain footer inline near long]
    python bench/data.py --table

The records are made from the vocabulary of the example visits (examples/visit_scenarios.py), each with vital signs, and
are the same in every run. `footer`: the same last line in every record. `inline`: the same words at the end of a line
of every record. `near`: one record in five is an earlier one with one word changed or misspelt. `long`: six triage
notes a record. Each variant is read, audited and split by a child process of its own; the peak of its resident memory
is that of the operating system.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import runs
from runs import Entry

sys.path.append(str(runs.ROOT / "examples"))
import make_visits

RESULTS = runs.RESULTS / "data.jsonl"
MARK = "bench/data.py"
VARIANTS = ("plain", "footer", "inline", "near", "long")
_NOTES = 6  # triage notes in a long record
STAGES = ("read", "near-duplicates", "audit", "split")
KEY = ("variant", "records")
MOST_SECONDS, MOST_MB = 20, 1000  # the aim, for 100,000 records
FOOTER = "This record is confidential. Questions: health information office, 555 0134, Monday to Friday 8 to 16."
COLUMNS = ("Row_ID", "patient_id", "Ward", "Prompt", "Standardized_Rating", "Rationale of Rating")

T = TypeVar("T")


# --- the records ---


def records(count: int, variant: str) -> Iterator[dict[str, str]]:
    rng = random.Random(5)
    earlier: list[str] = []
    for visit in make_visits.make_visits(count, 5):
        text = record_text(visit, rng)
        if variant == "near" and earlier and rng.random() < 0.2:
            text = nearly(rng.choice(earlier), rng)
        earlier.append(text)
        if variant == "long":
            notes = (rng.choice(earlier).rpartition("Triage: ")[2].split("\n")[0] for _ in range(_NOTES - 1))
            text += "".join(f". {note}" for note in notes)
        if variant in ("footer", "inline"):
            text += f"{'.' if variant == 'inline' else ''}{chr(10) if variant == 'footer' else ' '}{FOOTER}"
        yield {
            "Row_ID": visit["Row_ID"],
            "patient_id": visit["C_BioSense_ID"],
            "Ward": f"ward {rng.randint(1, 9)}",
            "Prompt": f"Task: rate this visit for respiratory infections.\n\n{text}",
            "Standardized_Rating": visit["Standardized_Rating"],
            "Rationale of Rating": visit["Rationale of Rating"],
        }


def record_text(visit: dict[str, str], rng: random.Random) -> str:
    """The visit as its prompt has it, with vital signs: a real record is told from the others by its numbers."""
    vitals = (
        f"temp {rng.uniform(96.8, 103.5):.1f}, pulse {rng.randint(55, 140)}, bp {rng.randint(90, 190)}/"
        f"{rng.randint(50, 110)}, resp {rng.randint(12, 32)}, sats {rng.randint(86, 100)} %"
    )
    return (
        f"Chief complaint: {visit['ChiefComplaintOrig']}\nDiagnosis: {visit['Discharge Diagnosis'] or 'none'}\n"
        f"Sex: {visit['Sex']}\nAge: {visit['Age']}\nVital signs: {vitals}\nTriage: {visit['TriageNotes'] or 'none'}"
    )


def nearly(text: str, rng: random.Random) -> str:
    """The text with one long word of its complaint or triage note misspelt, or with one more word."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places or rng.random() < 0.5:
        return f"{text} again"
    place = rng.choice(places)
    words[place] = words[place][:2] + words[place][3:]
    return " ".join(words)


def write(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return path


# --- one variant, in a process of its own ---


def measure_stages(path: Path) -> Entry:
    import resource

    from expertune.config import Config
    from expertune.ratings.audit import audit
    from expertune.ratings.dataset import read_rated
    from expertune.ratings.near_duplicates import find_duplicates
    from expertune.ratings.split import split

    stages: dict[str, tuple[float, float]] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        start, cpu = time.perf_counter(), time.process_time()
        done = work()
        stages[name] = (round(time.perf_counter() - start, 2), round(time.process_time() - cpu, 2))
        return done

    config = Config()
    rated, scale = timed("read", lambda: read_rated(path, make_visits.LABELS, make_visits.TOPIC))
    ratings, shares = rated.ratings, {"dev_share": config.dev_share, "test_share": config.test_share}
    duplicates = timed("near-duplicates", lambda: find_duplicates(ratings, config.near_duplicate_threshold))
    found = timed("audit", lambda: audit(ratings, scale, duplicates))
    parts = timed("split", lambda: split(ratings, duplicates, **shares, seed=config.seed))
    return {
        "stages": stages,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "findings": {finding.kind: finding.count for finding in found.findings},
        "near_pairs": len(duplicates.near),
        "rows": {name: len(rows) for name, rows in parts.parts().items()},
        "groups": len(set(parts.groups.values())),
    }


def measure(variant: str, count: int, work: Path) -> Entry:
    work.mkdir(parents=True, exist_ok=True)
    path = write(work / f"{variant}.csv", records(count, variant))
    child = runs.run_child([sys.executable, __file__, "--stages", path], work / f"{variant}.log")
    megabytes = round(path.stat().st_size / 1e6)
    path.unlink()
    if child.code:
        raise runs.ChildFailed(child.last_error)
    return {"variant": variant, "records": count, **runs.stamp(), "file_mb": megabytes, **child.last_json}


# --- table ---


def table(entries: Sequence[Entry]) -> Iterator[str]:
    found = runs.latest(entries, *KEY)
    ordered = sorted(found.values(), key=lambda each: (each["records"], VARIANTS.index(each["variant"])))
    head = ("records", "variant", *STAGES, "together", "processor", "peak MB", "near pairs", "groups")
    yield from runs.table(head, [row(each) for each in ordered])
    for text in dict.fromkeys(f"{each['date'][:10]}, commit {each['commit']}, {each['machine']}" for each in ordered):
        yield f"\n{text}."


def row(entry: Entry) -> list[str]:
    seconds = [entry["stages"][name] for name in STAGES]
    return [
        f"{entry['records']:,}",
        entry["variant"],
        *(f"{wall:.1f}" for wall, _ in seconds),
        f"**{sum(wall for wall, _ in seconds):.1f}**",
        f"{sum(cpu for _, cpu in seconds):.1f}",
        f"{entry['peak_mb']:,}",
        f"{entry['near_pairs']:,}",
        f"{entry['groups']:,}",
    ]


def main() -> int:
    options = parse(sys.argv[1:])
    if options.stages:
        print(json.dumps(measure_stages(options.stages)))
        return 0
    failed = 0
    for variant in () if options.table else options.variants:
        try:
            entry = measure(variant, options.records, options.work)
        except runs.ChildFailed as error:
            failed += 1
            print(f"{variant}: not measured: {error}", flush=True)
            continue
        runs.append_result(options.results, entry)
        print(f"{variant}: {said(entry)}", flush=True)
    runs.show_table(list(table(runs.read_results(options.results))), MARK if options.table else "")
    return 1 if failed else 0


def said(entry: Entry) -> str:
    wall = sum(seconds for seconds, _ in entry["stages"].values())
    over = entry["records"] >= 100_000 and (wall > MOST_SECONDS or entry["peak_mb"] > MOST_MB)
    return f"{wall:.1f} s, {entry['peak_mb']} MB{' – MORE THAN THE AIM' if over else ''} {entry['findings']}"


def parse(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=runs.ROOT / "outputs" / "bench" / "data")
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(list(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
