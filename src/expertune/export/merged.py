"""Merge the adapter into the base GGUF and verify that its predictions still match the adapter's.

Types are chosen tensor by tensor (export.quant_types). Then the merged file is served, and its predictions for the
validation records are compared with those of base + adapter (export.agreement); if they differ, every tensor gets its
largest type, whatever the file's size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import TrainingFailedError
from ..gguf import quants
from ..gguf.read import GGUFFile
from ..gguf.write import Progress, Replacement, write_model
from .agreement import CheckedFile, FileAgreement
from .decision import is_decision_key
from .quant_types import TypeChoice, WeightUpdate, choose, largest, tensor_bytes


@dataclass(frozen=True)
class MergeTarget:
    """The file to write: `base` with `update`, and `metadata` keys of its own."""

    path: Path
    base: GGUFFile
    update: WeightUpdate
    metadata: Mapping[str, str | float]
    threads: int


@dataclass(frozen=True)
class MergedModel:
    """The file at `path`: types of its changed tensors, and how it was checked; `rounds` has the agreement of each
    attempt at its types."""

    path: Path
    choices: tuple[TypeChoice, ...]
    checked: CheckedFile
    rounds: tuple[FileAgreement, ...]


def merge(
    target: MergeTarget,
    config: Config,
    write: Callable[[Sequence[TypeChoice]], None],
    check: Callable[[int], CheckedFile],
) -> MergedModel:
    """Write the merged file to `target.path`, again with the largest types if it does not agree with base + adapter.

    `write` writes the file with these types (`write_merged`); `check` compares it with the adapter, given the number
    of the attempt (1 or 2). If larger types do not help either, rounding of weights is not the cause, and the file
    with the smaller types stays. Raises TrainingFailedError if the adapter changes nothing, OutputError if the file
    cannot be written.
    """
    if not target.update.names():
        raise TrainingFailedError("training changed nothing; raise --epochs or --learning-rate")
    base, update, threads = target.base, target.update, target.threads
    choices = choose(base, update, wanted=config.export_type, keep=config.min_update_retained, threads=threads)
    write(choices)
    first = check(1)
    larger = None
    if config.export_type == "auto" and not first.agreement.passed:
        larger = largest(base, update, choices, threads=threads)
    if larger is None:
        return MergedModel(target.path, tuple(choices), first, (first.agreement,))
    write(larger)
    second = check(2)
    rounds = (first.agreement, second.agreement)
    if second.agreement.passed:
        return MergedModel(target.path, tuple(larger), second, rounds)
    write(choices)
    return MergedModel(target.path, tuple(choices), first, rounds)


def write_merged(target: MergeTarget, choices: Sequence[TypeChoice], *, progress: Progress | None = None) -> None:
    """Copy unchanged tensors, write changed ones as W + ΔW in their chosen type; atomic. Raises OutputError."""
    replaced = {
        choice.name: Replacement(choice.type, functools.partial(_merged_tensor, target, choice)) for choice in choices
    }
    stale = set(filter(is_decision_key, target.base.fields))
    write_model(target.path, target.base, replaced=replaced, metadata=target.metadata, dropped=stale, progress=progress)


def merged_bytes(base: GGUFFile, choices: Sequence[TypeChoice]) -> int:
    """Size of all tensors of the merged file."""
    unchanged = base.tensors.keys() - {choice.name for choice in choices}
    return sum(base.tensors[name].nbytes for name in unchanged) + sum(tensor_bytes(base, each) for each in choices)


def _merged_tensor(target: MergeTarget, choice: TypeChoice) -> np.ndarray:
    """W + ΔW, packed in the chosen type."""
    weight_OI = target.base.tensor(choice.name)
    weight_OI += target.update.of(choice.name)
    return quants.quantize(weight_OI, choice.type, threads=target.threads, name=choice.name)
