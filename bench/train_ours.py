"""Our training steps on a GGUF and a rating file, as one JSON line: the counterpart of peer_trl.py.

    python bench/train_ours.py BASE.gguf formatted_dataset.csv [--steps 10] [--rank 16] [--batch 4] [--max-len 512]\
        [--layers all]

The same rows as the peer: the bare prompt and the JSON answer, no chat template. Tokens are those of the rows
(no padding anywhere); `computed_tokens` leaves out what the rows of a batch share at their beginning, which is
computed once.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("csv", type=Path)
    for name, value in (("--steps", 10), ("--rank", 16), ("--batch", 4), ("--max-len", 512)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--weight-cache", default="auto")
    parser.add_argument("--compute-dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes")
    options = parser.parse_args()

    rows = read_rows(options.base, options.csv, options.max_len)
    tokenised = time.perf_counter()

    import torch

    from expertune.config import Config
    from expertune.gguf.read import GGUFFile
    from expertune.model.load import load, place
    from expertune.train.checkpoint import CheckpointPlace
    from expertune.train.encode import Candidates
    from expertune.train.loop import Trainer, TrainingData

    imported = time.perf_counter()
    config = Config(
        rank=options.rank,
        alpha=2.0 * options.rank,
        batch_size=options.batch,
        weight_cache=options.weight_cache,
        compute_dtype=options.compute_dtype,
        device=options.device,
        layers=options.layers,
        epochs=3.0,
    )
    with GGUFFile(options.base) as file, tempfile.TemporaryDirectory() as folder:
        placement = place(file, config)
        tunable = load(file, config, placement, row_tokens=options.max_len)
        loaded = time.perf_counter()
        data = TrainingData(rows, rows[:8], Candidates((), ((5,), (6,))))
        trainer = Trainer(tunable, data, config, checkpoints=CheckpointPlace(Path(folder), ""))
        started = time.perf_counter()
        trainer.read_trunk()
        trunk_seconds = time.perf_counter() - started
        events = [trainer.one_step() for _ in range(options.steps)]
        if options.profile:
            profile(trainer)
    seconds = sum(event.seconds for event in events[1:])  # the first step also sets up the kernels
    rates = {str(dtype).removeprefix("torch."): product_rate(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    print(
        json.dumps(
            {
                "tokenise_s": round(tokenised - START, 2),
                "import_s": round(imported - tokenised, 2),
                "load_s": round(loaded - imported, 2),
                "trunk_s": round(trunk_seconds, 2),
                "first_step_s": round(events[0].seconds, 2),
                "steps": len(events),
                "rows": len(rows),
                "mean_tokens_row": round(sum(row.length for row in rows) / len(rows), 1),
                "tok_s": round(sum(event.tokens for event in events[1:]) / seconds, 1),
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "loss": events[-1].loss,
                "machine_gflops": {name: round(rate) for name, rate in rates.items()},
                "gflop_per_token": round(matrix_flop_per_token(tunable) / 1e9, 3),
                **placement.describe(),
            }
        )
    )


def read_rows(base: Path, csv: Path, longest: int) -> list:
    """The peer's rows, tokenised by the engine that serves the model."""
    import pandas

    from expertune.engine.llama_cpp.engine import LlamaCppEngine
    from expertune.train.encode import Row

    label = {1: "Match", 0: "Does Not Match", -1: "Unknown"}
    frame = pandas.read_csv(csv).dropna(subset=["Prompt", "Standardized_Rating"])
    rows = []
    with LlamaCppEngine(base, context=longest) as engine:
        for index, (prompt, rating, why) in enumerate(
            zip(
                frame["Prompt"],
                frame["Standardized_Rating"],
                frame.get("Rationale of Rating", frame["Prompt"]),
                strict=True,
            )
        ):
            answer = json.dumps({"rating": label.get(int(rating), str(int(rating))), "rationale": str(why)[:300]})
            tokens = tuple(engine.tokenize(prompt))
            target = tuple(engine.continuation(prompt, answer))
            if len(tokens) + len(target) < longest:
                rows.append(Row(str(index), 0, tokens, target, (1.0,) * len(target)))
    return rows


def product_rate(dtype, size: int = 2048) -> float:
    """This machine's floating-point operations per second in a square product, the best of a few."""
    import torch

    left, right, best = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype), float("inf")
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def matrix_flop_per_token(tunable) -> float:
    """Of the base's products alone: forward, and the gradient of their input; the base itself has no gradient."""
    return sum(4.0 * layer.inputs * layer.outputs for layer in tunable.lora.layers)


def profile(trainer) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    with recorded(activities=[ProfilerActivity.CPU]) as found:
        trainer.one_step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


if __name__ == "__main__":
    main()
