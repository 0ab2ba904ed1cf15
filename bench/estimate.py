"""Estimates against actual figures: tokens/s and peak memory of a training, and the time of a whole run by stages.

    python bench/estimate.py [--threads 1] [--steps 6] [--csv formatted_dataset.csv]
    python bench/estimate.py --job MODEL.gguf … --csv FILE [--mapping FILE] [--rows 150] [--minutes N] [--threads 1]

The models differ in size, family and quantisation and are made on the spot. Each is estimated in one fresh process and
trained in another one, on the same rows, from the first look at the dev rows on, with the default settings.

With --job each model is tuned on the first rows of a file with the default settings; the plan that the run prints is
compared with the seconds that its stages took. On a machine with other work the processor seconds of the run say more
than its wall time; both are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import make_gguf
from train_ours import read_rows

ROWS = Path(__file__).resolve().parent.parent / "tests/data/ratings/ktas_acuity_subset.csv"
MODELS = {
    "llama 36 M, Q8_0": {"width": 384, "ffn": 1024, "layers": 6, "heads": 6, "kv": 2, "type": "Q8_0"},
    "qwen3 80 M, Q4_K": {"width": 512, "ffn": 1536, "layers": 20, "heads": 8, "kv": 4, "family": "qwen3"},
    "llama 200 M, Q4_K": make_gguf.SIZES["m200"],
}
LONGEST, DEV_ROWS = 512, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0 is every core; 1 where other work shares the machine")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--csv", type=Path, default=ROWS)
    parser.add_argument("--weight-cache", default="auto", choices=("auto", "quantized", "dequantized"))
    parser.add_argument("--job", nargs="+", type=Path, metavar="MODEL", help="plan and actual time of whole runs")
    parser.add_argument("--mapping", type=Path, help="JSON file of the labels of --csv")
    parser.add_argument("--rows", type=int, default=150, help="rows of --csv for --job")
    parser.add_argument("--minutes", help="limit on a run's time, for --job")
    for stage in ("--estimate", "--train"):
        parser.add_argument(stage, nargs=2, metavar=("MODEL", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        for model in options.job:
            job(model, options)
    elif options.estimate:
        estimate(*options.estimate, options)
    elif options.train:
        train(*options.train, options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    head = f"{'model':20}{'said':>9}{'trained':>9}{'error':>7}   {'said MB':>8}{'peak MB':>9}{'error':>7}   base"
    print(f"{'':20}{'tokens/s':>18}\n{head}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, sizes) in enumerate(MODELS.items()):
            model = make_gguf.make(Path(folder) / f"{number}.gguf", **sizes)
            rows = Path(folder) / "rows.json"
            rows.write_text(json.dumps([asdict(row) for row in read_rows(model, options.csv, LONGEST)]))
            said, seen = (_apart(stage, model, rows, options) for stage in ("--estimate", "--train"))
            rate, peak = said["rate"] / seen["rate"] - 1, said["peak_mb"] / seen["peak_mb"] - 1
            print(
                f"{name:20}{said['rate']:9.0f}{seen['rate']:9.0f}{rate:7.0%}   {said['peak_mb']:8.0f}"
                f"{seen['peak_mb']:9.0f}{peak:7.0%}   {said['base']} {said['precision']}, {said['s']:.1f} s to measure",
                flush=True,
            )


def job(model: Path, options: argparse.Namespace) -> None:
    """Tune the model in a process of its own; print each stage's estimated and actual seconds."""
    import pandas

    with tempfile.TemporaryDirectory() as folder:
        rows, out = Path(folder) / "rows.csv", Path(folder) / "out"
        pandas.read_csv(options.csv).head(options.rows).to_csv(rows, index=False)
        command = [sys.executable, "-m", "expertune", "tune", "--input", rows, "--model", model, "--topics", "records"]
        given = {"--threads": options.threads, "--rating-mapping": options.mapping, "--minutes": options.minutes}
        command += [part for flag, value in given.items() if value for part in (flag, value)]
        before, start = os.times(), time.perf_counter()
        run = subprocess.run([*map(str, command), "--output-dir", str(out)], stdout=subprocess.DEVNULL, check=False)
        wall, after = time.perf_counter() - start, os.times()
        if not (out / "fine_tuning_metadata.json").exists():
            sys.exit(f"{model}: no result (exit {run.returncode})")
        found = json.loads((out / "fine_tuning_metadata.json").read_text())
    processor = sum(after[2:4]) - sum(before[2:4])
    print(f"\n{model.name}, {options.rows} rows: {wall:.0f} s, {processor:.0f} processor seconds")
    print(found["plan"]["settings"])
    print(f"{'stage':12}{'estimated':>11}{'actual':>9}{'ratio':>8}")
    stages = [(each["name"], each["seconds"], each["actual"] or 0.0) for each in found["plan"]["stages"]]
    total = ("total", sum(each[1] for each in stages), sum(each[2] for each in stages))
    for name, said, actual in (*stages, total):
        print(f"{name:12}{said:11.1f}{actual:9.1f}{f'{said / actual:8.2f}' if actual else '       –'}", flush=True)


def _apart(stage: str, model: Path, rows: Path, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, stage, model, rows, "--threads", options.threads, "--steps", options.steps]
    command += ["--weight-cache", options.weight_cache]
    found = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def _config(options: argparse.Namespace):
    from expertune.config import Config

    return Config(threads=options.threads or None, weight_cache=options.weight_cache)


def estimate(model: str, rows: str, options: argparse.Namespace) -> None:
    """The figures of `expertune models --input`, from the shape of the rows alone."""
    from expertune.estimate.capability import estimate
    from expertune.estimate.plan import shape_of
    from expertune.estimate.throughput import probe
    from expertune.gguf.read import GGUFFile

    start = time.perf_counter()
    shape = shape_of(_rows(rows))
    rate = probe(Path(model), shape, _config(options))
    seconds = time.perf_counter() - start
    with GGUFFile(model) as file:
        memory = estimate(file, shape, rate).memory
    said = {"rate": rate.tokens_per_second, "peak_mb": memory.peak / 1e6, "s": seconds}
    print(json.dumps(said | {"base": rate.base_memory, "precision": rate.precision, "parts": asdict(memory)}))


def train(model: str, rows: str, options: argparse.Namespace) -> None:
    """A look at the dev rows and some steps, with everything loaded that a run has loaded."""
    import resource

    import pandas  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import expertune.fine_tuner  # noqa: F401
    from expertune.config import with_changes
    from expertune.gguf.read import GGUFFile
    from expertune.model.load import load, place
    from expertune.train.encode import Candidates
    from expertune.train.loop import Trainer, TrainingData

    found, config = _rows(rows), with_changes(_config(options), evals_per_epoch=1)
    with GGUFFile(model) as file:
        placement = place(file, config)
        tunable = load(file, config, placement, row_tokens=max(row.length for row in found))
        candidates = Candidates((), ((5, 6, 7), (6, 7, 8), (7, 8, 9)))
        dev, rest = found[:DEV_ROWS], found[DEV_ROWS:]
        trainer = Trainer(tunable, TrainingData(rest, dev, candidates), config)
        events = []
        for event in trainer.run():
            events.append(event)
            if len(events) > options.steps:
                break
    steps = events[2:]  # after the look and the first step, which also sets up the kernels
    rate = sum(event.tokens for event in steps) / sum(event.seconds for event in steps)
    print(json.dumps({"rate": rate, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}))


def _rows(path: str) -> list:
    from expertune.train.encode import Row

    return [
        Row(row["id"], row["label"], tuple(row["prompt"]), tuple(row["answer"]), tuple(row["weights"]))
        for row in json.loads(Path(path).read_text())
    ]


if __name__ == "__main__":
    main()
