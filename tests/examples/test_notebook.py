"""The example notebook runs from its first cell to its last, as in a folder with the example data and model."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "examples/first_run.ipynb").read_text(encoding="utf-8"))


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; return the value of its last line, which a notebook shows, if that is an expression."""
    tree = ast.parse(source)
    shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(shown.value), "cell", "eval"), names) if isinstance(shown, ast.Expr) else None


def test_it_is_kept_without_outputs() -> None:
    assert NOTEBOOK["nbformat"] == 4
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    for cell in NOTEBOOK["cells"]:
        assert set(cell) >= {"id", "metadata", "source"}


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("formatted_dataset.csv", "base.gguf"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    shown = [run_cell(cell, names) for cell in cells]
    metadata, raters = names["metadata"], shown[-1]
    assert names["success"] and metadata["fine_tuning_info"]["success"]
    assert any(each is metadata for each in shown) and "<table>" in metadata._repr_html_()
    assert list(raters["rater"]) == [each["name"] for each in metadata["evaluation"]["evaluations"]]
    assert (tmp_path / "outputs/report.html").is_file()
