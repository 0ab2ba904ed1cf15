"""Rating on a Ray cluster of several nodes on this machine: records per second by workers, and the driver's memory.

    python bench/rate_ray.py [--rows 10000,100000,1000000] [--workers 0,1,2,4]
    python bench/rate_ray.py --model examples/base.gguf [--csv FILE.csv] [--rows 10000] [--workers 0,1,2,4]

Without `--model` the engine computes nothing: what is measured is the driver, which reads, journals and writes, and
Ray. With it llama.cpp rates the records of the .csv, repeated with a number so that no text occurs twice, one thread a
worker. Each line is one process, since a process's peak never falls; "one process" is the same without Ray. (This file
is not named ray.py: Ray's workers would import it for the library.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
sys.path[:0] = [str(ROOT / "src"), str(BENCH)]
CONTEXT = 2240

Engine = tuple[str, int]  # path of the GGUF file, "" for the engine that computes nothing; threads


@contextlib.contextmanager
def opened(engine: Engine) -> Iterator[Any]:
    """On a worker, or here: the scorer of the bench."""
    from expertune.engine.llama_cpp.engine import LlamaCppEngine
    from expertune.predict.score import LanguageModelScorer
    from expertune.rate.serve import ServedModel
    from rate import SCALE, StubEngine, messages

    file, threads = engine
    made = LlamaCppEngine(Path(file), context=CONTEXT, threads=threads) if file else StubEngine()
    with contextlib.closing(made):
        yield ServedModel(LanguageModelScorer(made, messages, SCALE), "bench", made.slots + 1)


def rate(source: Path, folder: Path, engine: Engine, workers: int) -> dict[str, Any]:
    """Rate a file by `workers` nodes of one CPU each, 0: in this process."""
    from expertune.predict.uncertainty import Uncertainty
    from expertune.rate.columns import Wanted
    from expertune.rate.journal import Journal
    from expertune.rate.ray_blocks import RayWorkers, Share
    from expertune.rate.runner import RateRequest, rate_records
    from expertune.ratings.records import open_records
    from rate import SCALE, stage

    wanted = Wanted(SCALE, Uncertainty())
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if workers:
            stack.enter_context(cluster(workers, folder))
            scorer = RayWorkers(partial(opened, engine), Share(workers, 1, 0))
            while len(scorer._workers) < workers:  # so that all of them are measured from the beginning
                scorer._receive()
            request = RateRequest(scorer, "bench", 1, "bench", wanted, rate_batches=scorer.rate_batches)
        else:
            served = stack.enter_context(opened(engine))
            request = RateRequest(served.scorer, "bench", 1, "bench", wanted, workers=served.workers)
        ready = time.perf_counter()
        with Journal(folder / "journal.sqlite") as journal:
            tally = rate_records(open_records(source), folder / "rated", request, journal, stage)
    return {
        "records": tally.counts.rows,
        "workers": workers or "one process",
        "start_s": round(ready - started, 1),
        "records_per_s": round(tally.rows_per_second, 1),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "whole": whole(folder / "rated", tally.counts.rows),
    }


def whole(folder: Path, rows: int) -> bool:
    """All records are there, in the order of the input."""
    import pyarrow.parquet

    ids = [
        row_id
        for part in sorted(folder.glob("part-*.parquet"))
        for row_id in pyarrow.parquet.read_table(part, columns=["Row_ID"]).column(0).to_pylist()
    ]
    return ids == [str(i) for i in range(rows)]


@contextlib.contextmanager
def cluster(nodes: int, folder: Path) -> Iterator[None]:
    """A head without workers and `nodes` nodes of one CPU, on the loopback; this process is connected to it."""
    code = os.pathsep.join((str(ROOT / "src"), str(BENCH)))
    os.environ |= {"PYTHONPATH": code, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)}
    from ray.cluster_utils import Cluster

    from expertune.rate.ray_cluster import connected

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1)
        with connected(made.address):
            yield
    finally:
        made.shutdown()


def write_records(path: Path, rows: int, csv: Path | None) -> Path:
    """A Parquet file of numbered records."""
    import pyarrow
    import pyarrow.parquet

    if csv is None:
        texts = [f"Chief complaint: visit {{}}\nTriage: cough and fever for {days} days" for days in range(30)]
    else:
        import pandas

        texts = [f"{text}\nVisit: {{}}" for text in pandas.read_csv(csv)["Prompt"].str.replace(r"[{}]", "", regex=True)]
    schema = pyarrow.schema([("Row_ID", pyarrow.string()), ("Prompt", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            some = range(start, min(start + 10_000, rows))
            prompts = [texts[i % len(texts)].format(i) for i in some]
            writer.write_table(pyarrow.table({"Row_ID": [str(i) for i in some], "Prompt": prompts}, schema=schema))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="rate by llama.cpp with this file")
    parser.add_argument("--csv", type=Path, default=ROOT / "examples" / "formatted_dataset.csv")
    parser.add_argument("--rows", help="numbers of records (10000,100000,1000000; with --model 10000)")
    parser.add_argument("--workers", default="0,1,2,4", help="numbers of workers; 0: one process without Ray")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows or ("10000" if options.model else "10000,100000,1000000")
    if not options.one:
        for count in rows.split(","):
            for workers in options.workers.split(","):
                given = [*sys.argv[1:], "--one", "--rows", count, "--workers", workers]
                subprocess.run([sys.executable, __file__, *given], check=True)
        return
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = folder / "new.parquet"
        made = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path[:2]}; import rate_ray, pathlib; "]
        made[-1] += f"rate_ray.write_records(pathlib.Path({str(source)!r}), {rows}, "
        made[-1] += f"pathlib.Path({str(options.csv)!r}))" if options.model else "None)"
        subprocess.run(made, check=True)  # in a process of its own: its memory is not the driver's
        engine = (str(options.model.resolve()) if options.model else "", 1)
        print(json.dumps(rate(source, folder, engine, int(options.workers))), flush=True)


if __name__ == "__main__":
    main()
