"""Our side of bench/gpu.py, in a process of its own; prints one JSON line for each figure.

python bench/gpu_ours.py speed --work FOLDER …       tokens/s, peak memory and records/s for each model and batch
python bench/gpu_ours.py parity --work FOLDER …      our decoder on the device against itself on the CPU in float32
python bench/gpu_ours.py folders --work FOLDER …     the models, and the Hugging Face folders of the peers
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# tests before bench: both have a module "families"
sys.path[:0] = [str(ROOT / each) for each in ("tests", "tests/model", "src", "bench", "")]

import gpu_models  # noqa: E402
import gpu_rows  # noqa: E402
import torch  # noqa: E402

from expertune.config import Config  # noqa: E402
from expertune.gguf.read import GGUFFile  # noqa: E402
from expertune.model.load import Placement, Tunable, load, place  # noqa: E402
from expertune.train.evaluate import evaluate  # noqa: E402
from expertune.train.loop import Trainer, TrainingData  # noqa: E402
from expertune.train.rows import training_rows  # noqa: E402

RANK, WARM_STEPS = 16, 12


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "parity", "folders"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--given", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=list(gpu_models.SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 32])
    parser.add_argument("--warm", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--families", nargs="*")
    options = parser.parse_args()
    if options.what == "parity":
        parity(options)
        return
    for name in options.models:
        path, real = gpu_models.find(name, options.given, options.work)
        if options.what == "folders":
            if name in gpu_models.SHAPES:
                dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
                gpu_models.as_folder(path, gpu_models.SHAPES_OF[name], options.work / "hf" / name, dtype)
            say(model=name, real=real)
        else:
            speed(name, path, options)


# --- speed ---


def speed(name: str, path: Path, options: argparse.Namespace) -> None:
    """One line for each batch size, then one for rating; an error of one is its line."""
    rows, candidates = rows_of(name, options)
    for batch in options.batches:
        try:
            tunable = train_one(name, path, batch, rows, candidates, options)
            if batch == options.batches[-1]:
                say(model=name, records_s=records_per_second(tunable, rows, candidates, options))
        except Exception as error:  # the other figures are worth having
            traceback.print_exc()
            say(side="Expertune", model=name, batch=batch, error=f"{type(error).__name__}: {error}"[:300])
        gc.collect()  # the last trainer's memory is not this one's


def train_one(
    name: str, path: Path, batch: int, rows: list[Any], candidates: Any, options: argparse.Namespace
) -> Tunable:
    config = Config(
        layers="all",
        rank=RANK,
        alpha=2.0 * RANK,
        batch_size=batch,
        epochs=1000.0,
        learning_rate=2e-4,
        device=options.device,
    )
    start = time.perf_counter()
    with GGUFFile(path) as file:
        tunable = load(file, config, place(file, config))
    loaded = time.perf_counter() - start
    trainer = Trainer(tunable, TrainingData(rows, rows, candidates), config)
    found = train(trainer, options)
    graphed = trainer._graphed  # pyright: ignore[reportPrivateUsage]
    graphs = {} if graphed is None else {"graphs": graphed.count, "refusal": graphed.refusal}
    precision = tunable.placement.describe()["precision"]
    say(side="Expertune", model=name, batch=batch, **found, load_s=round(loaded, 1), precision=precision, **graphs)
    return tunable


def rows_of(name: str, options: argparse.Namespace) -> tuple[list[Any], Any]:
    given = None if options.given is None else options.given / "rows.json"
    return gpu_rows.read(given, name, gpu_models.SHAPES_OF[name].vocabulary)


def train(trainer: Trainer, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s and peak MB of the steps after the warm-up, their number, and the mean loss."""
    start, warm = time.perf_counter(), 0
    while warm < WARM_STEPS or time.perf_counter() - start < options.warm:
        trainer.one_step()
        warm += 1
    wait(options, reset=True)
    start, events = time.perf_counter(), []
    while time.perf_counter() - start < options.seconds:
        events.append(trainer.one_step())
    peak = wait(options)
    rate = sum(event.tokens for event in events) / (time.perf_counter() - start)
    loss = sum(event.loss for event in events) / len(events)
    return {"tokens_s": round(rate, 1), "peak_mb": peak, "steps": len(events), "loss": round(loss, 4)}


def wait(options: argparse.Namespace, *, reset: bool = False) -> int:
    """Peak MB on the device, once it has finished; 0 on the CPU."""
    if options.device != "cuda":
        return 0
    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return round(torch.cuda.max_memory_allocated() / 1e6)


def records_per_second(tunable: Tunable, rows: list[Any], candidates: Any, options: argparse.Namespace) -> float:
    """Score all labels of records by the decoder with its adapter."""
    opening = len(candidates.shared) + 1
    short = [replace(row, answer=row.answer[:opening], weights=row.weights[:opening]) for row in rows]
    evaluate(tunable, short, candidates, batch_size=64)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds / 2:
        evaluate(tunable, short, candidates, batch_size=64)
        count += len(short)
    return round(count / (time.perf_counter() - start), 1)


# --- parity ---


def parity(options: argparse.Namespace) -> None:
    """Largest difference of log-probabilities and relative difference of the gradient, against float32 on the CPU."""
    import families

    for name in options.families if options.families is not None else families.FAMILIES:
        path = families.make(options.work / "family.gguf", families.FAMILIES[name])
        from test_gradients import rows_of as tiny_rows

        say(parity=name, **dict(compared(path, tiny_rows(), options, real=False)))
    for name in options.models:
        path, real = gpu_models.find(name, options.given, options.work)
        rows, _ = rows_of(name, options)
        say(parity=name, **dict(compared(path, rows[:4], options, real=real)))


def compared(path: Path, rows: list[Any], options: argparse.Namespace, *, real: bool) -> Iterator[tuple[str, Any]]:
    yield "real", real
    exact_N, exact_P = passed(path, rows, torch.device("cpu"), torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        found_N, found_P = passed(path, rows, torch.device(options.device), dtype)
        kind = str(dtype).removeprefix("torch.")
        yield kind, round(float((found_N - exact_N).abs().max()), 6)
        yield f"{kind}_gradient", round(float((found_P - exact_P).norm() / exact_P.norm()), 6)


def passed(path: Path, rows: list[Any], device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each answer token, and the adapter's gradient, on the CPU; as the trainer computes them."""
    from expertune.train.batches import training_batch
    from expertune.train.class_balance import balance
    from expertune.train.cuda_graph import GraphedStep
    from expertune.train.encode import Candidates
    from expertune.train.loss import log_probabilities, weighted_loss

    with GGUFFile(path) as file:
        tunable = load(file, Config(rank=4, alpha=8.0), Placement(device, dtype, True, torch.get_num_threads()))
        draw = torch.Generator().manual_seed(3)
        tunable.lora.values_P.add_((0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw)).to(device))
        tunable.lora.refresh()
        fills = tunable.decoder.fills_rows
        labels = Candidates((), tuple((token, 7) for token in range(40, 42 + max(row.label for row in rows))))
        found = balance(Config(), labels, rows)
        batch = (training_rows if fills else training_batch)(rows, found.weights, found.decisions)
        with torch.no_grad():
            hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
            log_N = log_probabilities(tunable.decoder, hidden_ND, batch.targets_N.to(device)).cpu()
        if fills:
            step = GraphedStep(tunable)
            for _ in range(3):  # without a graph, recorded, replayed
                tunable.lora.gradients_P.zero_()
                step.backward(batch, 1.0)
        else:
            hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
            targets = batch.targets_N.to(device), batch.weights_N.to(device)
            weighted_loss(tunable.decoder, hidden_ND, *targets, batch.decisions).backward()
        return log_N[: sum(len(row.answer) for row in rows)], tunable.lora.gradients_P.float().cpu()


if __name__ == "__main__":
    main()
