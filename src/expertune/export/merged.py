"""Merge the adapter into the base GGUF and verify that its predictions still match the adapter's.

Types are chosen tensor by tensor (export.quant_types). Then the merged file is served, and its predictions on the dev
rows must agree with those of base + adapter. While they do not, the half of the tensors with the most noise gets the
next larger type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import TrainingFailedError
from ..gguf import quants
from ..gguf.read import GGUFFile
from ..gguf.write import Progress, Replacement, write_model
from ..predict.score import Pass
from .quant_types import TypeChoice, WeightUpdate, choose, upgrade_worst_half


@dataclass(frozen=True)
class MergeTarget:
    """The file to write: `base` with `update`, and `metadata` keys of its own."""

    path: Path
    base: GGUFFile
    update: WeightUpdate
    metadata: Mapping[str, str]
    threads: int


@dataclass(frozen=True)
class FileAgreement:
    """Agreement of a merged file with base + adapter on the dev rows: share of equal labels, and the mean over rows of
    the largest difference of a probability. `passed`: both are within the limits of the settings."""

    labels: float
    probability_gap: float
    rows: int
    passed: bool


@dataclass(frozen=True)
class MergedModel:
    """The file at `path`: types, agreement, predictions on the dev rows; `rounds` has the agreement of each attempt."""

    path: Path
    choices: tuple[TypeChoice, ...]
    agreement: FileAgreement
    rounds: tuple[FileAgreement, ...]
    judged: Pass


def merge(
    target: MergeTarget,
    config: Config,
    adapter_pass: Pass,
    write_and_score: Callable[[Sequence[TypeChoice], int], Pass],
) -> MergedModel:
    """Find types with which the merged file agrees with base + adapter; leaves the best file at `target.path`.

    `write_and_score` gets the types and the number of the attempt (from 1), writes the file with these types
    (`write_merged`) and returns its predictions on the validation rows.
    Raises TrainingFailedError if the adapter changes nothing, OutputError if the file cannot be written.
    """
    if not target.update.names():
        raise TrainingFailedError("training changed nothing; raise --epochs or --learning-rate")

    choices: Sequence[TypeChoice] | None = choose(
        target.base, target.update, wanted=config.export_type, keep=config.min_update_retained, threads=target.threads
    )
    attempts: list[MergedModel] = []
    while choices is not None:
        judged = write_and_score(choices, len(attempts) + 1)
        found = agreement(adapter_pass, judged, config)
        attempts.append(MergedModel(target.path, tuple(choices), found, (), judged))
        choices = None if found.passed or config.export_type != "auto" else _upgrade(target, choices)

    best = _best(attempts)
    if best is not attempts[-1]:  # larger types did not help, so the difference is not due to rounding of weights
        judged = write_and_score(best.choices, len(attempts) + 1)
        best = replace(best, judged=judged, agreement=agreement(adapter_pass, judged, config))
    return replace(best, rounds=tuple(each.agreement for each in attempts))


def _upgrade(target: MergeTarget, choices: Sequence[TypeChoice]) -> list[TypeChoice] | None:
    return upgrade_worst_half(target.base, target.update, choices, threads=target.threads)


def _best(attempts: Sequence[MergedModel]) -> MergedModel:
    """The attempt that passed or has the most equal labels; of equals the first, which has the smallest types."""
    return max(attempts, key=lambda each: (each.agreement.passed, each.agreement.labels))


def write_merged(target: MergeTarget, choices: Sequence[TypeChoice], *, progress: Progress | None = None) -> None:
    """Copy unchanged tensors, write changed ones as W + ΔW in their chosen type; atomic. Raises OutputError."""
    replaced = {
        choice.name: Replacement(choice.type, functools.partial(_merged_tensor, target, choice)) for choice in choices
    }
    write_model(target.path, target.base, replaced=replaced, metadata=target.metadata, progress=progress)


def merged_bytes(base: GGUFFile, choices: Sequence[TypeChoice]) -> int:
    """Size of all tensors of the merged file."""
    unchanged = base.tensors.keys() - {choice.name for choice in choices}
    return sum(base.tensors[name].nbytes for name in unchanged) + sum(tensor_bytes(base, each) for each in choices)


def tensor_bytes(base: GGUFFile, choice: TypeChoice) -> int:
    """Size of a changed tensor in its chosen type."""
    info = base.tensors[choice.name]
    return info.rows * quants.bytes_per_row(choice.type, info.width)


def _merged_tensor(target: MergeTarget, choice: TypeChoice) -> np.ndarray:
    """W + ΔW, packed in the chosen type."""
    weight_OI = target.base.tensor(choice.name)
    weight_OI += target.update.of(choice.name)
    return quants.quantize(weight_OI, choice.type, threads=target.threads, name=choice.name)


def agreement(first: Pass, second: Pass, config: Config) -> FileAgreement:
    """Compare two passes over the same rows. One row may always differ: below a hundred rows it is more than 1 %."""
    pairs = list(zip(first.rated, second.rated, strict=True))
    same = sum(a.label == b.label for a, b in pairs)
    gaps = [max(abs(p - q) for p, q in zip(a.probabilities, b.probabilities, strict=True)) for a, b in pairs]
    gap = sum(gaps) / len(pairs)
    enough = min(len(pairs) - 1, config.min_label_agreement * len(pairs))
    return FileAgreement(same / len(pairs), gap, len(pairs), same >= enough and gap <= config.max_probability_gap)
