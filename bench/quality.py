"""How well each rater rates: sets × models × raters × seeds of the split, on test records that no choice has seen.

    python bench/quality.py [--data FOLDER] [--sets visits triage pubmedqa screening] [--models smollm2 gemma3 base]
                            [--seeds 42 43 44] [--minutes 60] [--threads 0] [--engine torch] [--again]
                            [-- flags of expertune tune]
    python bench/quality.py --table

Each cell (set, model, seed) is one run of `expertune tune` with its default settings, in a process of its own. Its
figures are one line of bench/results/quality.jsonl; cells that are there are not run again. Without --data (a folder
with the CSV and JSON of the other sets) there are the example visits. With --engine torch our decoder rates all records
in place of llama.cpp (on a GPU where torch sees one); such cells are cells of their own. --table writes the table of
bench/README.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import runs
import sets
from pool import pooled
from runs import Entry

RESULTS = runs.RESULTS / "quality.jsonl"
KEY = ("set", "model", "seed", "flags", "records", "engine")
ENGINE = "llama.cpp"  # of results that name none
MARK = "bench/quality.py"
WITHOUT_MODEL = ("TF-IDF", "majority")


def main() -> int:
    options, flags = parse(sys.argv[1:])
    if options.table:
        runs.show_table(list(table(read(options.results))), MARK)
        return 0
    started, failed = time.monotonic(), 0
    waiting = missing(cells(options, flags), read(options.results), again=options.again)
    for number, cell in enumerate(waiting, start=1):
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            print(f"{len(waiting) - number + 1} cells are left; the same command goes on with them", flush=True)
            break
        name = f"{cell['set']} {cell['model']} seed {cell['seed']}"
        print(f"{number}/{len(waiting)} {name} …", flush=True)
        try:
            entry = {**cell, **measure(cell, options)}
        except (runs.ChildFailed, FileNotFoundError, sets.real_models.Unavailable) as error:
            failed += 1
            print(f"  not measured: {error}", flush=True)
            continue
        runs.append_result(options.results, entry)
        print(f"  {entry['seconds']:.0f} s: {told(entry)}", flush=True)
    return 1 if failed else 0


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, flags = runs.split_flags(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the CSV and JSON of triage, pubmedqa and screening")
    parser.add_argument("--sets", nargs="+", choices=sets.SETS)
    parser.add_argument("--models", nargs="+", default=list(sets.MODELS), help="of these, or paths of GGUF files")
    parser.add_argument("--model-dir", type=Path, help="where the real models are kept (default: the cache)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--records", type=int, default=0, help="only the first records of each set: a try")
    parser.add_argument("--minutes", type=float, default=0, help="start no further cell after this time")
    parser.add_argument("--threads", type=int, default=0, help="0 is every core")
    parser.add_argument("--engine", choices=(ENGINE, "torch"), default=ENGINE, help="engine that rates the records")
    parser.add_argument("--again", action="store_true", help="also the cells that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=runs.ROOT / "outputs" / "bench" / "quality")
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    options = parser.parse_args(own)
    options.sets = options.sets or (list(sets.SETS) if options.data else ["visits"])
    return options, flags


def read(results: Path) -> list[Entry]:
    return [{"engine": ENGINE, **each} for each in runs.read_results(results)]


# --- cells ---


def cells(options: argparse.Namespace, flags: Sequence[str]) -> Iterator[Entry]:
    """Seeds outermost, so that a table over all sets and models is there after a third of the time."""
    for seed in options.seeds:
        for name in options.sets:
            for model in options.models:
                yield {
                    "set": name,
                    "model": Path(model).name,
                    "seed": seed,
                    "flags": " ".join(flags),
                    "records": options.records,
                    "engine": options.engine,
                }


def missing(wanted: Iterator[Entry], there: Sequence[Entry], *, again: bool) -> list[Entry]:
    """The cells to run; says which of the others were measured with other code."""
    done = runs.latest(there, *KEY)
    found = [cell for cell in wanted if again or tuple(cell[name] for name in KEY) not in done]
    now = runs.commit()
    old = sum(entry["commit"] != now for entry in done.values())
    if old and not again:
        print(f"{old} of {len(done)} cells were measured with another commit than {now}; --again measures them anew")
    return found


def measure(cell: Entry, options: argparse.Namespace) -> Entry:
    """Run one cell. Its folder holds patient text and is removed afterwards; it is gone on with where it was left."""
    found = runs.stamp()
    name = (cell["set"], Path(cell["model"]).stem, str(cell["seed"]), cell["engine"], found["commit"])
    work = options.work / "-".join(name)
    given = next(each for each in options.models if Path(each).name == cell["model"])
    model = sets.find_model(given, options.model_dir)
    records = sets.shortened(sets.find_set(cell["set"], options.data), cell["records"], options.work)
    same_code = not found["commit"].endswith("+")
    if not same_code:
        shutil.rmtree(work, ignore_errors=True)
    engine = [] if cell["engine"] == ENGINE else ["--engine", cell["engine"]]
    flags = ["--seed", str(cell["seed"]), *runs.thread_flags(options.threads), *engine, *cell["flags"].split()]
    child = runs.tune(
        records.csv, records.mapping, records.topic, model, work, [*flags, *(["--resume"] if same_code else [])]
    )
    entry = {
        **found,
        "threads": options.threads,
        "seconds": child.seconds,
        "peak_mb": child.peak_mb,
        **runs.read_run(work),
    }
    shutil.rmtree(work)
    return entry


def told(entry: Entry) -> str:
    name = entry["recommended"]
    if name is None:
        return f"not judged: {entry['fallback']}"
    parts = [f"{key} {runs.figure(value)}" for key, value in entry["raters"][name].items()]
    return f"{name}, " + ", ".join(parts)


# --- table ---


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Means over the seeds; rows of one set together. Tries (with flags, or with fewer records) are left out."""
    found = [each for each in runs.latest(entries, *KEY).values() if not each["flags"] and not each["records"]]
    names = [name for name in sets.SETS if any(each["set"] == name for each in found)]
    rows = [row for name in names for row in set_rows(name, [each for each in found if each["set"] == name])]
    head = ("set (test records)", "model", "rater", "seeds", "macro-F1", "less TF-IDF", "accuracy", "log-loss")
    yield from runs.table(head, rows)
    yield ""
    yield from notes(found)


def set_rows(name: str, found: Sequence[Entry]) -> Iterator[list[str]]:
    records = sorted({each["rows"]["test"] for each in found})
    title = f"{name} ({'–'.join(map(str, dict.fromkeys((records[0], records[-1]))))})"
    by_seed = list(runs.latest(found, "seed").values())
    for rater in WITHOUT_MODEL:
        yield [title, "–", rater, *row(by_seed, rater)]
    for model in dict.fromkeys(map(model_of, found)):
        own = [each for each in found if model_of(each) == model]
        yield [title, model, f"**recommended** ({chosen(own)})", *row(own, None)]
        others = dict.fromkeys(rater for each in own for rater in each["raters"] if rater not in WITHOUT_MODEL)
        for rater in others:
            yield [title, model, rater, *row(own, rater)]


def model_of(entry: Entry) -> str:
    """The model, with the engine where it is not the usual one."""
    return entry["model"] if entry["engine"] == ENGINE else f"{entry['model']}, rated by {entry['engine']}"


def chosen(entries: Sequence[Entry]) -> str:
    names = [each["recommended"] or "not judged" for each in entries]
    return ", ".join(f"{name} {names.count(name)}×" for name in dict.fromkeys(names))


def row(entries: Sequence[Entry], rater: str | None) -> list[str]:
    """One rater's means over the entries that have it; None is the one that each run recommended."""
    has = [(each, rater or each["recommended"]) for each in entries]
    has = [(each, name) for each, name in has if name in each["raters"]]
    columns = {
        metric: pooled([each["raters"][name][metric] for each, name in has])
        for metric in ("macro_f1", "accuracy", "log_loss")
    }
    less = pooled([less_tfidf(each, name) for each, name in has]) if rater != "TF-IDF" else None
    told = (columns["macro_f1"], less, columns["accuracy"], columns["log_loss"])
    cells = [runs.figure(each, sign=each is less) for each in told]
    return [str(len(has)), *cells]


def less_tfidf(entry: Entry, rater: str) -> Entry:
    """Macro-F1 less that of TF-IDF on the same records; an interval is there for the recommended rater only."""
    if rater == entry["recommended"] and "TF-IDF" in entry["recommended_less"]:
        return entry["recommended_less"]["TF-IDF"]
    own, other = (entry["raters"][name]["macro_f1"]["value"] for name in (rater, "TF-IDF"))
    return {"value": own - other, "low": None, "high": None}


def notes(found: Sequence[Entry]) -> Iterator[str]:
    if found:
        hours = sum(each["seconds"] for each in found) / 3600
        yield f"{len(found)} runs, {hours:.1f} hours, {runs.measured_on(found)}"


if __name__ == "__main__":
    raise SystemExit(main())
