"""What a command prints on stdout when it is done: the verdict first, then figures, then files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_summary(metadata: Mapping[str, Any], folder: Path) -> None:
    """The result of a run."""
    print(metadata["verdict"])
    evaluations = metadata["evaluation"]["evaluations"]
    if evaluations:
        print(
            f"\nOn {evaluations[0]['rows']} rows that nothing was trained on or chosen by "
            f"({metadata['settings']['confidence']:.0%} intervals):"
        )
        print(f"  {'':10} {'accuracy':>20} {'macro-F1':>20} {'kappa':>21}")
        for each in evaluations:
            figures = (_estimate(each[name]) for name in ("accuracy", "macro_f1", "kappa"))
            print(f"  {each['name']:10} {' '.join(figures)}")
    for line in _training(metadata.get("training"), metadata.get("export")):
        print(line)
    for finding in metadata["data_audit"]["findings"]:
        if finding["severity"] != "info":
            print(f"{finding['severity']}: {finding['message']}")
    print(f"\nFiles in {folder}/ (they hold patient text; mode 0600):")
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            print(f"  {path.name:28} {size_text(path.stat().st_size):>9}")


def _estimate(estimate: Mapping[str, Any] | None) -> str:
    if not estimate or estimate.get("value") is None:
        return f"{'–':>20}"
    interval = estimate.get("interval")
    return (
        f"{estimate['value']:6.3f} ({interval['low']:.2f} to {interval['high']:.2f})"
        if interval
        else f"{estimate['value']:6.3f}{'':14}"
    )


def _training(training: Mapping[str, Any] | None, export: Mapping[str, Any] | None) -> list[str]:
    if not training or not export:
        return []
    types = ", ".join(
        f"{each['tensors']} tensors in {each['type']} ({each['kept']:.0%} of the change kept)"
        for each in export["types"]
    )
    return [
        f"\nTrained {training['steps']} steps at {training['tokens_per_second']:,.0f} tokens/s "
        f"({training['precision']}, base {training['base_memory']}, classes weighted: {training['class_weighting']}); "
        f"kept step {training['best_step']}.",
        f"Exported {types}; {size_text(export['bytes'])}, base {size_text(export['base_bytes'])}.",
        f"File and adapter agree on {export['agreement']:.1%} of {export['agreement_rows']} dev rows, "
        f"probabilities within {export['probability_gap']:.3f} on average"
        f"{'' if export['agreement_passed'] else ' – BELOW the gate'}.",
        f"The file rates {export['rows_per_second']:.1f} rows/s, its base {export['base_rows_per_second']:.1f}.",
    ]


def size_text(count: float) -> str:
    """Bytes for people: 4.7 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def print_doctor(model: str | None) -> None:
    """Libraries, machine and, where named, the model."""
    import os

    import psutil

    from .fine_tuner import FineTuner
    from .pipeline.outputs import versions

    for name, version in versions().items():
        print(f"{name:14} {version}")
    print(f"{'cores':14} {os.cpu_count()}")
    memory = psutil.virtual_memory()
    print(f"{'memory':14} {size_text(memory.available)} free of {size_text(memory.total)}")
    if model is not None:
        found = FineTuner().capability(model)
        print(f"{'model':14} {found.model}: {found.reason}")
