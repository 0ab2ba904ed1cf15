"""Every model family and quantisation beside llama.cpp, as the tests demand it: prints the tables of docs/families.md.

    python bench/families.py [--families llama gemma2] [--types Q4_K Q8_0] [--write docs/families.md]

Tiny random models with each family's real metadata and tensors (tests/families.py). What is printed is measured by the
functions that the tests use (tests/family_proof.py). --write puts the tables between the marks in a file.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from runs import put_between  # noqa: E402

import families  # noqa: E402
import family_proof as proof  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(families.FAMILIES))
    parser.add_argument("--types", nargs="*", default=list(proof.TYPES))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines = []
    for table in (proofs(options.families), quantised(options.types), matrix(options.families, options.types)):
        for line in itertools.chain(table, [""]):
            print(line, flush=True)
            lines.append(line)
    if options.write is not None:
        put_between(options.write, "bench/families.py", lines)


def proofs(names: list[str]) -> Iterator[str]:
    """In float32: logits, adapter, merged file, and the gradient."""
    yield "| family | architecture | logits | base + adapter | merged file | gradient |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = proof.exported(Path(folder), name)
            logits = proof.logits(Path(folder), name, "F32").same
            gap = gradient_gap(Path(folder), name)
        figures = " | ".join(f"{value:.0e}" for value in (logits, found.adapter, found.merged, gap))
        yield f"| {name} | {families.FAMILIES[name].architecture} | {figures} |"


def gradient_gap(folder: Path, name: str) -> float:
    """The largest gap between the backward and a finite difference, beside the steepest slope of the same model."""
    base = families.make(folder / "gradient.gguf", families.FAMILIES[name])
    found = list(proof.slopes(proof.open_model(base, adapter_size=0.05), proof.rows()))
    return max(abs(each.computed - each.measured) for each in found) / max(abs(each.computed) for each in found)


def quantised(types: list[str]) -> Iterator[str]:
    """Adapter and merged file of a base of each type, on one family."""
    yield "| llama, base in | the adapter moves | base + adapter | merged file |"
    yield "|---|---|---|---|"
    for qtype in types:
        with tempfile.TemporaryDirectory() as folder:
            found = proof.exported(Path(folder), "llama", qtype)
        yield f"| {qtype} | {found.moved:.1f} | {found.adapter:.0e} | {found.merged:.2g} |"


def matrix(names: list[str], types: list[str]) -> Iterator[str]:
    """Largest difference of log-probability on the same weights, in millionths."""
    yield "```"
    yield f"{'':14}" + "".join(f"{each.lower():>8}" for each in types)
    for name in names:
        cells = []
        for qtype in types:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(f"{proof.logits(Path(folder), name, qtype).same * 1e6:8.0f}")
        yield f"{name:14}" + "".join(cells)
    yield "```"


if __name__ == "__main__":
    main()
