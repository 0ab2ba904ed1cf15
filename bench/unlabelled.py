"""What records without a rating add to a tuned file: the same job with and without --unlabelled, on records kept apart.

    python bench/unlabelled.py [--model smollm2] [--rated 150] [--unrated 150] [--seeds 42 43] [--minutes 60]
    python bench/unlabelled.py --table

The example visits are shuffled by the seed: the first --rated of them are the rated records, the next --unrated lose
their rating, all others are rated by both tuned files (llama.cpp) and judged; no run has seen them. A line of
bench/results/unlabelled.jsonl for each seed; seeds that are there are not run again. --table writes bench/README.md.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import runs
import sets
from pool import pooled
from runs import Entry

RESULTS = runs.RESULTS / "unlabelled.jsonl"
KEY = ("model", "rated", "unrated", "seed")
MARK = "bench/unlabelled.py"
RATINGS = ("Standardized_Rating", "Rationale of Rating")
WITHOUT, WITH = "rated records alone", "with --unlabelled"


def main() -> int:
    options = parse()
    if options.table:
        runs.show_table(list(table(runs.read_results(options.results))), MARK)
        return 0
    started, failed = time.monotonic(), 0
    done = runs.latest(runs.read_results(options.results), *KEY)
    for seed in options.seeds:
        cell = {"model": options.model, "rated": options.rated, "unrated": options.unrated, "seed": seed}
        if tuple(cell.values()) in done:
            continue
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            print("seeds are left; the same command goes on with them", flush=True)
            break
        print(f"seed {seed} …", flush=True)
        try:
            entry = {**cell, **measure(options, seed)}
        except (runs.ChildFailed, FileNotFoundError, sets.real_models.Unavailable) as error:
            failed += 1
            print(f"  not measured: {error}", flush=True)
            continue
        runs.append_result(options.results, entry)
        print("\n".join(table([entry])), flush=True)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=sets.MODELS)
    parser.add_argument("--model-dir", type=Path, help="where the real models are kept (default: the cache)")
    parser.add_argument("--rated", type=int, default=150)
    parser.add_argument("--unrated", type=int, default=150)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--threads", type=int, default=0, help="0 is every core")
    parser.add_argument("--minutes", type=float, default=0, help="start no further seed after this time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=runs.ROOT / "outputs" / "bench" / "unlabelled")
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    return parser.parse_args()


# --- a seed ---


def measure(options: argparse.Namespace, seed: int) -> Entry:
    """Both runs of one seed. Raises ChildFailed where one of them made no tuned file."""
    found, folder = runs.stamp(), options.work / f"{options.model}-{options.rated}-{options.unrated}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    rated, unrated, kept = parts(folder, options.rated, options.unrated, seed)
    model, records = sets.find_model(options.model, options.model_dir), sets.visits()
    flags = ["--approach", "tune", "--seed", str(seed), *runs.thread_flags(options.threads)]
    files, more = {}, {WITHOUT: [], WITH: ["--unlabelled", str(unrated)]}
    for at, (way, own) in enumerate(more.items()):
        run = folder / f"run-{at}"
        child = runs.tune(rated, records.mapping, records.topic, model, run, [*flags, *own])
        files[way] = run / "fine_tuned_model.gguf"
        if not files[way].exists():
            raise runs.ChildFailed(f"{way}: no tuned file: {child.last_error}")
    judged = judge(files, kept, seed, options.threads)
    shutil.rmtree(folder)
    return {**found, "threads": options.threads, **judged}


def parts(folder: Path, rated: int, unrated: int, seed: int) -> list[Path]:
    """Rated records, records without a rating, and those kept apart, each in a file of its own."""
    import pandas

    from expertune.files import write_text

    visits = pandas.read_csv(sets.VISITS).sample(frac=1, random_state=seed)
    frames = {
        "rated": visits[:rated],
        "unrated": visits[rated : rated + unrated].drop(columns=list(RATINGS)),
        "kept": visits[rated + unrated :],
    }
    folder.mkdir(parents=True)
    for name, frame in frames.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    return [folder / f"{name}.csv" for name in frames]


def judge(files: dict[str, Path], kept: Path, seed: int, threads: int) -> Entry:
    """Both files' figures on all records of `kept`, and macro-F1 with --unlabelled less that without."""
    from judge_file import rate_with

    from expertune.config import make_config
    from expertune.evaluate.compare import compare, evaluate
    from expertune.ratings.dataset import load_dataset

    config = make_config({"seed": seed, "threads": threads or None})
    data = load_dataset(kept, sets.visits().mapping, sets.VISITS_TOPIC, config)
    examples = [each for part in data.examples.parts().values() for each in part]
    rated = {way: rate_with(file, examples, data.scale, config).rated for way, file in files.items()}
    common: tuple[Any, ...] = (data.scale, data.split.groups, config)
    (less,) = compare((WITH, rated[WITH]), {WITHOUT: rated[WITHOUT]}, data.ratings, *common)
    figures = {way: runs.figures(asdict(evaluate(way, data.ratings, own, *common))) for way, own in rated.items()}
    return {"rows": len(data.ratings), "figures": figures, "less": runs.interval_of(asdict(less))}


# --- table ---


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each way, means over the seeds."""
    head = ("model", "rated / unrated", "trained on", "seeds", "macro-F1", "less without", "accuracy", "log-loss")
    by_cell: dict[tuple[str, int, int], list[Entry]] = {}
    for each in entries:
        by_cell.setdefault((each["model"], each["rated"], each["unrated"]), []).append(each)
    yield from runs.table(head, [row for key, found in by_cell.items() for row in rows_of(key, found)])
    yield ""
    rows = ", ".join(sorted({str(each["rows"]) for each in entries}))
    yield f"{rows} records kept apart; {runs.measured_on(entries)}"


def rows_of(key: tuple[str, int, int], found: Sequence[Entry]) -> Iterator[list[str]]:
    model, rated, unrated = key
    for way in (WITHOUT, WITH):
        macro_f1, accuracy, log_loss = (
            runs.figure(pooled([each["figures"][way][name] for each in found]))
            for name in ("macro_f1", "accuracy", "log_loss")
        )
        less = runs.figure(pooled([each["less"] for each in found]), sign=True) if way == WITH else "–"
        yield [model, f"{rated} / {unrated}", way, str(len(found)), macro_f1, less, accuracy, log_loss]


if __name__ == "__main__":
    raise SystemExit(main())
