"""Summary of a written model file for the run's record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..gguf.read import GGUFFile
from ..predict.score import Pass
from .merged import FileAgreement, MergedModel, tensor_bytes
from .quant_types import TypeChoice


@dataclass(frozen=True)
class TypeShare:
    """The adapted tensors of one GGUF type; `kept` is the smallest share of a tensor's update that survived it."""

    type: str
    tensors: int
    bytes: int
    kept: float


@dataclass(frozen=True)
class ExportSummary:
    """The written file, against the adapter (`agreement…`) and its base. `rounds` are the attempts at its types."""

    types: tuple[TypeShare, ...]
    base_types: dict[str, int]
    bytes: int
    base_bytes: int
    agreement: float
    probability_gap: float
    agreement_passed: bool
    agreement_rows: int
    rounds: tuple[FileAgreement, ...]
    rows_per_second: float
    base_rows_per_second: float
    prompt_tokens_per_second: float | None = None
    base_prompt_tokens_per_second: float | None = None


def summarize_export(file: GGUFFile, merged: MergedModel, base_dev: Pass) -> ExportSummary:
    """The figures of a merged file; `base_dev` is the base's pass over the validation records."""
    by_type: dict[str, list[TypeChoice]] = {}
    for choice in merged.choices:
        by_type.setdefault(choice.type.name, []).append(choice)
    return ExportSummary(
        types=tuple(_type_share(file, name, choices) for name, choices in sorted(by_type.items())),
        base_types=dict(sorted(Counter(choice.base_type.name for choice in merged.choices).items())),
        bytes=merged.path.stat().st_size,
        base_bytes=file.path.stat().st_size,
        agreement=merged.agreement.labels,
        probability_gap=merged.agreement.probability_gap,
        agreement_passed=merged.agreement.passed,
        agreement_rows=merged.agreement.rows,
        rounds=merged.rounds,
        rows_per_second=merged.judged.rows_per_second,
        base_rows_per_second=base_dev.rows_per_second,
        prompt_tokens_per_second=merged.judged.prompt_tokens / merged.judged.seconds,
        base_prompt_tokens_per_second=base_dev.prompt_tokens / base_dev.seconds,
    )


def _type_share(file: GGUFFile, name: str, choices: list[TypeChoice]) -> TypeShare:
    size = sum(tensor_bytes(file, choice) for choice in choices)
    return TypeShare(name, len(choices), size, min(choice.kept for choice in choices))
