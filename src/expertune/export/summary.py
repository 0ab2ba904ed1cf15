"""Summary of a written model file for the run's record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..gguf.read import GGUFFile
from ..predict.score import Pass
from ..stats.intervals import Estimate
from .agreement import FileAgreement, Noise
from .merged import MergedModel
from .quant_types import TypeChoice, tensor_bytes


@dataclass(frozen=True)
class TypeShare:
    """The adapted tensors of one GGUF type; `kept` is the smallest share of a tensor's update that survived it."""

    type: str
    tensors: int
    bytes: int
    kept: float


@dataclass(frozen=True)
class ExportSummary:
    """The written file, against the adapter and its base. `rounds` are the attempts at its types.

    `agreement` to `log_loss_limit` are the `labels` to `log_loss_limit` of the last file's FileAgreement.
    `rows_per_second` is that of the engine that also read the base, `served_rows_per_second` that of llama.cpp.
    """

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
    base_rows_per_second: float | None
    prompt_tokens_per_second: float | None = None
    base_prompt_tokens_per_second: float | None = None
    clear_rows: int | None = None
    log_loss: Estimate | None = None
    log_loss_limit: float | None = None
    noise: Noise | None = None
    served_rows_per_second: float | None = None

    @property
    def served_apart(self) -> float | None:
        """`served_rows_per_second` where the other speeds are another engine's; None of a run by llama.cpp alone."""
        return None if self.served_rows_per_second == self.rows_per_second else self.served_rows_per_second


def summarize_export(file: GGUFFile, merged: MergedModel, by_file: Pass, by_base: Pass) -> ExportSummary:
    """The figures of a merged file; the passes of file and base by one engine are there for their speeds."""
    agreement = merged.checked.agreement
    by_type: dict[str, list[TypeChoice]] = {}
    for choice in merged.choices:
        by_type.setdefault(choice.type.name, []).append(choice)
    return ExportSummary(
        types=tuple(_type_share(file, name, choices) for name, choices in sorted(by_type.items())),
        base_types=dict(sorted(Counter(choice.base_type.name for choice in merged.choices).items())),
        bytes=merged.path.stat().st_size,
        base_bytes=file.path.stat().st_size,
        agreement=agreement.labels,
        probability_gap=agreement.probability_gap,
        agreement_passed=agreement.passed,
        agreement_rows=agreement.rows,
        rounds=merged.rounds,
        rows_per_second=by_file.rows_per_second,
        base_rows_per_second=by_base.rows_per_second,
        prompt_tokens_per_second=by_file.prompt_tokens / by_file.seconds,
        base_prompt_tokens_per_second=by_base.prompt_tokens / by_base.seconds,
        clear_rows=agreement.clear_rows,
        log_loss=agreement.log_loss,
        log_loss_limit=agreement.log_loss_limit,
        noise=agreement.noise,
        served_rows_per_second=merged.checked.served.rows_per_second,
    )


def _type_share(file: GGUFFile, name: str, choices: list[TypeChoice]) -> TypeShare:
    size = sum(tensor_bytes(file, choice) for choice in choices)
    return TypeShare(name, len(choices), size, min(choice.kept for choice in choices))
