"""What the recipe stands on: many small trainings on one GPU, one recipe against the other on the same records.

    python bench/recipe_grid.py prepare --models smollm2 --data FOLDER --out FOLDER     # where the engine is
    python bench/recipe_grid.py train --folder FOLDER --workers 16 --seconds 280        # where the GPU is
    python bench/recipe_grid.py collect --folder FOLDER                                 # into bench/results
    python bench/recipe_grid.py --table                                                 # into bench/README.md

A quarter of the training and validation records, by group, is held out; each line has the figures on those and on
the test records. `train` runs RECIPES, or the jobs of --jobs (a JSON list of what `jobs` gives). Small trainings do not
fill a GPU: with NVIDIA's multi-process service 16 of them share one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from runs import PAGE, RESULTS, Entry, append_result, put_between, read_results, stamp, table
from sets import MODELS, SETS

from expertune.files import write_text

FILE = RESULTS / "recipe_grid.jsonl"
NAMES = {"smollm2": "SmolLM2", "gemma3": "Gemma 3"}
LABELS = {"loss": "labels", "layers": 20, "learning_rate": 1.3e-3, "epochs": 3, "batch_size": 4}
PLAIN = {**LABELS, "soft_label_weight": 0.0, "teacher": "none", "logit_adjustment": 0.5, "code": False}
TFIDF = {**PLAIN, "soft_label_weight": 0.5, "teacher": "tfidf"}
FUSED = {**TFIDF, "teacher": "fused", "epochs": 5}
GEMMA = {"layers": 12, "learning_rate": 1.2e-3}
THREE = ("triage", "visits", "screening")
# model, sets, seeds, recipe: the first grid, then the second one
RECIPES = (
    ("smollm2", SETS, (42, 43), {**PLAIN, "loss": "full", "layers": "all"}),
    ("smollm2", SETS, (42, 43), PLAIN),
    ("smollm2", SETS, (42, 43), {**PLAIN, "layers": "all"}),
    ("smollm2", SETS, (42, 43), TFIDF),
    ("gemma3", SETS, (42,), {**PLAIN, **GEMMA}),
    ("gemma3", SETS, (42,), {**TFIDF, **GEMMA}),
    ("smollm2", SETS, (42, 43), {**PLAIN, "learning_rate": 6e-4}),
    ("smollm2", SETS, (42, 43), {**PLAIN, "epochs": 5}),
    ("smollm2", SETS, (42, 43), {**PLAIN, "code": True}),
    ("smollm2", THREE, (42, 43), {**TFIDF, "epochs": 5}),
    ("smollm2", THREE, (42, 43), FUSED),
    ("smollm2", THREE, (42, 43), {**FUSED, "layers": 10}),
    ("smollm2", THREE, (42, 43), {**FUSED, "layers": "all"}),
    ("smollm2", THREE, (42, 43), {**FUSED, "layers": 15, "batch_size": 8, "learning_rate": 1.8e-3}),
    ("smollm2", THREE, (42, 43), {**FUSED, "layers": 10, "epochs": 8}),
    ("smollm2", THREE, (42, 43), {**FUSED, "soft_label_weight": 0.8}),
)


def jobs() -> list[Entry]:
    """All cells of the recipes, in their order."""
    return [
        {"model": model, "set": name, "seed": seed, **recipe}
        for model, names, seeds, recipe in RECIPES
        for seed in seeds
        for name in names
    ]


# --- training ---


def train(folder: Path, wanted: list[Entry], workers: int, seconds: float, device: str) -> None:
    """Run the jobs in so many processes; none begins after `seconds`."""
    (folder / "trained").mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    taken, deadline = context.Value("i", 0), time.time() + seconds
    pool = [context.Process(target=work, args=(folder, wanted, taken, deadline, device)) for _ in range(workers)]
    for process in pool:
        process.start()
    for process in pool:
        process.join()


def work(folder: Path, wanted: list[Entry], taken: Any, deadline: float, device: str) -> None:
    """Take jobs until none is left or time is up; a job that fails is printed and passed over."""
    import torch
    from recipe_grid_train import Student, trained

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    machine = torch.cuda.get_device_name() if device == "cuda" else device
    students, data = dict[str, Student](), dict[str, Entry]()
    while time.time() < deadline:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(wanted):
            return
        model, name = wanted[number]["model"], wanted[number]["set"]
        try:
            if model not in students:
                data[model] = json.loads((folder / f"{model}.json").read_text(encoding="utf-8"))
                students[model] = Student(folder / f"{model}.gguf", device)
            found = trained(students[model], wanted[number], data[model][name])
        except Exception:  # the other trainings are worth having
            print(f"failed: {wanted[number]}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        write_text(folder / "trained" / f"{number}.json", json.dumps({**found, "machine": machine}))
        print(number, model, name, found["seed"], f"{found['seconds']} s", flush=True)


def collect(folder: Path) -> None:
    """Append what was trained to the results."""
    for path in sorted((folder / "trained").glob("*.json"), key=lambda path: int(path.stem)):
        found = json.loads(path.read_text(encoding="utf-8"))
        append_result(FILE, {**stamp(), "script": "bench/recipe_grid.py", **found})


# --- table ---


def lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Markdown: one line per recipe, means over its cells; a cell that was trained again counts once, its last one."""
    recipes: dict[tuple[str, str], dict[tuple[str, int], Entry]] = {}
    for entry in entries:
        recipe = entry["model"], json.dumps(entry["settings"], sort_keys=True)
        recipes.setdefault(recipe, {})[entry["set"], entry["seed"]] = entry
    head = ("model", "loss", "blocks", "rate", "batch", "epochs", "soft labels", "cells", "validation", "TF-IDF")
    found = sorted(recipes.values(), key=lambda cells: order_of(next(iter(cells.values()))))
    yield from table((*head, "test", "TF-IDF", "readout"), [row(list(cells.values())) for cells in found])


def order_of(entry: Entry) -> tuple[object, ...]:
    settings = entry["settings"]
    teachers = ("none", "tfidf", "fused")
    return (
        MODELS.index(entry["model"]),
        teachers.index(settings["teacher"]),
        settings["epochs"],
        str(settings["layers"]),
    )


def row(cells: Sequence[Entry]) -> list[str]:
    first = cells[0]["settings"]
    teacher = str({"none": "–", "tfidf": "TF-IDF", "fused": "readout"}[first["teacher"]])
    return [
        NAMES[cells[0]["model"]],
        {"full": "vocabulary", "labels": "labels"}[first["loss"]] + (" + code" if first["code"] else ""),
        str(first["layers"]),
        f"{first['learning_rate']:g}",
        str(first["batch_size"]),
        str(first["epochs"]),
        teacher if teacher == "–" else f"{teacher}, {first['soft_label_weight']:g}",
        cells_in_words(cells),
        *(figure(cells, part, rater) for part in ("validation", "test") for rater in ("last", "tfidf")),
        figure(cells, "test", "fused"),
    ]


def cells_in_words(cells: Sequence[Entry]) -> str:
    """`8: visits, triage 42` lists the sets of each seed; all four sets are `all`."""
    seeds = dict[str, list[str]]()
    for seed in sorted({entry["seed"] for entry in cells}):
        names = [name for name in SETS if any((entry["set"], entry["seed"]) == (name, seed) for entry in cells)]
        seeds.setdefault("all" if len(names) == len(SETS) else ", ".join(names), []).append(str(seed))
    return f"{len(cells)}: " + "; ".join(f"{names} ({', '.join(own)})" for names, own in seeds.items())


def figure(cells: Sequence[Entry], part: str, rater: str) -> str:
    """Mean macro-F1 / mean log-loss, or a dash where a cell lacks the rater."""
    if any(rater not in entry[part] for entry in cells):
        return "–"
    return " / ".join(f"{mean(entry[part][rater][name] for entry in cells):.3f}" for name in ("macro_f1", "log_loss"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("prepare", "train", "collect"))
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    parser.add_argument("--model-folder", type=Path, help="folder with the real models, else they are fetched")
    parser.add_argument("--data", type=Path, help="folder with the rating files of the other sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--out", "--folder", dest="folder", type=Path, help="what is prepared and trained")
    parser.add_argument("--jobs", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--table", action="store_true", help="only write the table into bench/README.md")
    options = parser.parse_args()
    if options.table:
        put_between(PAGE, "recipe_grid", list(lines(read_results(FILE))))
    elif options.what is None or options.folder is None:
        parser.error("say what to do, and the folder; or --table")
    elif options.what == "prepare":
        from recipe_grid_prepare import prepare

        prepare(options.models, options.model_folder, options.sets, options.data, options.folder)
    elif options.what == "train":
        wanted = json.loads(options.jobs.read_text(encoding="utf-8")) if options.jobs else jobs()
        train(options.folder, wanted, options.workers, options.seconds, options.device)
    else:
        collect(options.folder)


if __name__ == "__main__":
    main()
