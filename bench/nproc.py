"""Training in several processes on this machine: tokens/s of 1 and of 2, and what the scaling model says of more.

    python bench/nproc.py BASE.gguf [--csv formatted_dataset.csv] [--processes 1 2] [--steps 8] [--batch 8]

Each process has one thread. The model of a step: the tokens' time divided by the processes, plus the time in which all
wait for the sums (the gradients, 4 bytes a parameter, and three numbers; waiting for the slower process included).
Predicted for more processes with a ring all-reduce, which moves 2 (N - 1) / N times these bytes in and out of each
process. The first step is not counted. Where other work takes cores away, the processor seconds of rank 0 still say how
much less it has to compute.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from train_ours import read_rows

from expertune.config import Config
from expertune.gguf.read import GGUFFile
from expertune.model.load import load, place
from expertune.train.checkpoint import CheckpointPlace
from expertune.train.data import TrainingData
from expertune.train.distributed import Job, begin, training_ranks
from expertune.train.encode import Candidates
from expertune.train.events import steps_of
from expertune.train.loop import Trainer
from expertune.train.ranks import Ranks
from expertune.train.recipe import with_recipe

LINKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "within a machine": 50e9}  # bytes/s each way
LONGEST = 512


@dataclass(frozen=True)
class Timed(Ranks):
    """Rank 0 with a clock on what all ranks do together."""

    seconds: list[float] = field(default_factory=list)

    def sum(self, *values: float) -> list[float]:
        start = time.perf_counter()
        found = super().sum(*values)
        self.seconds.append(time.perf_counter() - start)
        return found

    def add_up(self, gradients_P: torch.Tensor, loss: float) -> float:
        start, before = time.perf_counter(), len(self.seconds)
        found = super().add_up(gradients_P, loss)
        self.seconds[before:] = [time.perf_counter() - start]
        return found


@dataclass(frozen=True)
class Measured:
    """Means of the steps after the first one, of rank 0."""

    processes: int
    tokens: float
    seconds: float
    processor: float
    sums: float
    parameters: int


def measure(base: Path, data: TrainingData, config: Config, processes: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder, training_ranks(processes) as found, GGUFFile(base) as file:
        where, placement = CheckpointPlace(Path(folder), "bench"), place(file, config)
        begun = begin(found, Job(base.absolute(), "", config, data, LONGEST, where))
        ranks = Timed(begun.rank, begun.count, begun.nccl, begun.why)
        tunable = load(file, config, placement, row_tokens=LONGEST)
        trainer = Trainer(tunable, data, config, checkpoints=where, ranks=ranks)
        if trainer.trunk_rows:
            trainer.read_trunk()
        # of each step the last two sums: the weights before, the gradients after
        marks = [(sum(ranks.seconds[-2:]), time.process_time()) for event in trainer.run() if event.kind == "step"]
        steps = steps_of(trainer.result.history)[1:]
    return Measured(
        processes,
        sum(each.tokens for each in steps) / len(steps),
        sum(each.seconds for each in steps) / len(steps),
        (marks[-1][1] - marks[0][1]) / len(steps),
        sum(sums for sums, _ in marks[1:]) / len(steps),
        tunable.lora.values_P.numel(),
    )


def table(found: list[Measured]) -> list[str]:
    one, names = found[0], ("processes", "tokens/s", "s a step", "of it for the sums", "efficiency")
    names = (*names, "processor s a step of rank 0", "efficiency by them")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for each in found:
        rate, gain = each.tokens / each.seconds, one.seconds / each.seconds / each.processes
        lines.append(
            f"| {each.processes} | {rate:,.0f} | {each.seconds:.2f} | {each.sums:.3f} | {gain:.0%} "
            f"| {each.processor:.2f} | {one.processor / each.processor / each.processes:.0%} |"
        )
    return lines


def prediction(one: Measured) -> list[str]:
    """Efficiency with more processes as fast as the one measured, if each had its cores for itself."""
    counts, size = (2, 4, 8, 16), 4 * one.parameters
    lines = [
        f"A step: {one.tokens:,.0f} tokens of {1000 * one.seconds / one.tokens:.2f} ms; {size / 1e6:.1f} MB to add up",
        "",
        f"| link | {' | '.join(f'{count} processes' for count in counts)} |",
        "|---|" + "---|" * len(counts),
    ]
    for name, speed in LINKS.items():
        sums = [2 * (count - 1) / count * size / speed for count in counts]
        cells = [f"{one.seconds / (one.seconds + count * each):.0%}" for count, each in zip(counts, sums, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--csv", type=Path, default=Path(__file__).parents[1] / "examples/formatted_dataset.csv")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    rows = read_rows(options.base, options.csv, LONGEST)[: options.steps * options.batch]
    data = TrainingData(rows, rows[:2], Candidates((), ((5,), (6,))))
    found = []
    for processes in options.processes:
        config = Config(batch_size=options.batch, epochs=1.0, threads=processes, compute_dtype="fp32", device="cpu")
        with GGUFFile(options.base) as file:
            config = with_recipe(file, config, len(rows))
        found.append(measure(options.base, data, config, processes))
    print("\n".join([*table(found), "", *prediction(found[0])]))


if __name__ == "__main__":
    main()
