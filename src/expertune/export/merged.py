"""Base + adapter → one model file, held to the adapter by its ratings.

Types are chosen tensor by tensor (export.types); then the finished file is served and must rate the dev rows as
base + adapter do. While it does not, the worst half of the tensors goes up a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import TrainingFailedError
from ..gguf import quants
from ..gguf.read import GGUFFile
from ..gguf.write import Replacement, write_model
from ..predict.score import Pass
from .quant_types import TypeChoice, WeightUpdate, choose, upgrade_worst_half


@dataclass(frozen=True)
class FileAgreement:
    """File beside base + adapter on the dev rows: share of equal labels, mean of the rows' largest gaps."""

    labels: float
    probability_gap: float
    rows: int
    passed: bool


@dataclass(frozen=True)
class MergedModel:
    """The file that stands at `path`, its ratings of the dev rows, and how it came about."""

    path: Path
    choices: tuple[TypeChoice, ...]
    agreement: FileAgreement
    rounds: tuple[FileAgreement, ...]
    judged: Pass


def merge(
    path: Path,
    base: GGUFFile,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    scale: float,
    config: Config,
    adapter_pass: Pass,
    serve: Callable[[Path], Pass],
    metadata: Mapping[str, str],
    threads: int,
    on_write: Callable[[int, int], None] | None = None,
) -> MergedModel:
    """Write the merged model and judge it with `serve`, which rates the dev rows with a file.

    Raises TrainingFailedError where the adapter changes nothing, OutputError where the file cannot be written.
    """
    delta = WeightUpdate(pairs, scale)
    if not delta.names():
        raise TrainingFailedError("training changed nothing; raise --epochs or --learning-rate")

    def attempt(choices: Sequence[TypeChoice]) -> MergedModel:
        write_merged(path, base, delta, choices, metadata=metadata, threads=threads, on_write=on_write)
        judged = serve(path)
        return MergedModel(path, tuple(choices), agreement(adapter_pass, judged, config), (), judged)

    tries = [attempt(choose(base, delta, wanted=config.export_type, keep=config.min_update_retained, threads=threads))]
    while not tries[-1].agreement.passed and config.export_type == "auto":
        raised = upgrade_worst_half(base, delta, tries[-1].choices, threads=threads)
        if raised is None:
            break
        tries.append(attempt(raised))
    best = max(tries, key=lambda tried: (tried.agreement.passed, tried.agreement.labels, -tries.index(tried)))
    if best is not tries[-1]:  # larger types did not help: what differs then is not the rounding of weights
        best = attempt(best.choices)
    return replace(best, rounds=tuple(tried.agreement for tried in tries))


def write_merged(
    path: Path,
    base: GGUFFile,
    delta: WeightUpdate,
    choices: Sequence[TypeChoice],
    *,
    metadata: Mapping[str, str],
    threads: int,
    on_write: Callable[[int, int], None] | None = None,
) -> None:
    """Untouched tensors byte for byte, touched ones as W + ΔW in their chosen type; atomic."""

    def packed(choice: TypeChoice) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            weight_OI = base.tensor(choice.name)
            weight_OI += delta.of(choice.name)
            return quants.quantize(weight_OI, choice.type, threads=threads, name=choice.name)

        return make

    replaced = {choice.name: Replacement(choice.type, packed(choice)) for choice in choices}
    write_model(path, base, replaced=replaced, metadata=metadata, progress=on_write)


def agreement(first: Pass, second: Pass, config: Config) -> FileAgreement:
    """Two passes over the same rows. One row may always differ: below a hundred rows it is more than 1 %."""
    pairs = list(zip(first.rated, second.rated, strict=True))
    same = sum(a.label == b.label for a, b in pairs)
    gap = sum(max(abs(p - q) for p, q in zip(a.probabilities, b.probabilities, strict=True)) for a, b in pairs) / len(
        pairs
    )
    enough = min(len(pairs) - 1, config.min_label_agreement * len(pairs))
    return FileAgreement(same / len(pairs), gap, len(pairs), same >= enough and gap <= config.max_probability_gap)
