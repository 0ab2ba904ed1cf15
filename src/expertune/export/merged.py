"""Base + adapter → one model file, held to the adapter by its ratings.

Types are chosen tensor by tensor (export.types); then the finished file is served and must rate the dev rows as
base + adapter do. While it does not, the worst half of the tensors goes up a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import TrainingFailedError
from ..gguf import quants
from ..gguf.read import GGUFFile
from ..gguf.write import Replacement, write_model
from ..rate.score import Pass
from .types import Choice, Delta, choose, raise_worst


@dataclass(frozen=True)
class Agreement:
    """File beside base + adapter on the dev rows: share of equal labels, mean of the largest gap of a label's probability."""

    labels: float
    probability_gap: float
    rows: int
    passed: bool


@dataclass(frozen=True)
class Merged:
    """The file that stands at `path`, its ratings of the dev rows, and how it came about."""

    path: Path
    choices: tuple[Choice, ...]
    agreement: Agreement
    rounds: tuple[Agreement, ...]
    judged: Pass


def merge(path: Path, base: GGUFFile, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, scale: float, config: Config,
          adapter_pass: Pass, serve: Callable[[Path], Pass], metadata: Mapping[str, str], threads: int,
          on_write: Callable[[int, int], None] | None = None) -> Merged:
    """Write the merged model and judge it with `serve`, which rates the dev rows with a file.

    Raises TrainingFailedError where the adapter changes nothing, OutputError where the file cannot be written.
    """
    delta = Delta(pairs, scale)
    if not delta.names():
        raise TrainingFailedError("training changed nothing; raise --epochs or --learning-rate")
    choices = choose(base, delta, wanted=config.export_type, keep=config.keep_delta, threads=threads)
    rounds: list[Agreement] = []
    while True:
        write_merged(path, base, delta, choices, metadata=metadata, threads=threads, on_write=on_write)
        judged = serve(path)
        rounds.append(agreement(adapter_pass, judged, config))
        raised = None if rounds[-1].passed or config.export_type != "auto" else raise_worst(base, delta, choices, threads=threads)
        if raised is None:
            return Merged(path, tuple(choices), rounds[-1], tuple(rounds), judged)
        choices = raised


def write_merged(path: Path, base: GGUFFile, delta: Delta, choices: Sequence[Choice], *, metadata: Mapping[str, str],
                 threads: int, on_write: Callable[[int, int], None] | None = None) -> None:
    """Untouched tensors byte for byte, touched ones as W + ΔW in their chosen type; atomic."""

    def packed(choice: Choice) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            weight_OI = base.tensor(choice.name)
            weight_OI += delta.of(choice.name)
            return quants.quantize(weight_OI, choice.type, threads=threads, name=choice.name)

        return make

    replaced = {choice.name: Replacement(choice.type, packed(choice)) for choice in choices}
    write_model(path, base, replaced=replaced, metadata=metadata, progress=on_write)


def agreement(first: Pass, second: Pass, config: Config) -> Agreement:
    """Two passes over the same rows."""
    pairs = list(zip(first.rated, second.rated, strict=True))
    same = sum(a.label == b.label for a, b in pairs) / len(pairs)
    gap = sum(max(abs(p - q) for p, q in zip(a.probabilities, b.probabilities, strict=True)) for a, b in pairs) / len(pairs)
    return Agreement(same, gap, len(pairs), same >= config.agreement and gap <= config.probability_gap)
