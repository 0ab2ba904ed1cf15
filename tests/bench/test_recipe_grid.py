"""bench/recipe_grid.py: its table, its jobs, and one small training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import recipe_grid
import torch
from recipe_grid_train import Student, trained

import families

Figures = dict[str, dict[str, float]]


def figures(macro_f1: float, *, readout: bool = True) -> Figures:
    found = {"last": {"macro_f1": macro_f1, "log_loss": 0.8}, "tfidf": {"macro_f1": 0.6, "log_loss": 0.7}}
    return {**found, "fused": {"macro_f1": 0.5, "log_loss": 0.9}} if readout else found


def line(seed: int, macro_f1: float, *, readout: bool = True, **settings: object) -> dict[str, object]:
    parts = {part: figures(macro_f1, readout=readout) for part in ("validation", "test")}
    return {"model": "smollm2", "set": "visits", "seed": seed, "settings": {**recipe_grid.PLAIN, **settings}, **parts}


def test_a_recipe_is_one_line_with_the_mean_of_its_cells() -> None:
    *_, found = recipe_grid.lines([line(42, 0.1), line(42, 0.5), line(43, 0.7)])
    start = "| SmolLM2 | labels | 20 | 0.0013 | 4 | 3 | – | 2: visits (42, 43) |"
    assert found == f"{start} 0.600 / 0.800 | 0.600 / 0.700 | 0.600 / 0.800 | 0.600 / 0.700 | 0.500 / 0.900 |"


def test_recipes_stay_apart_and_a_missing_readout_is_a_dash() -> None:
    soft = {"soft_label_weight": 0.5, "teacher": "fused", "epochs": 5}
    *_, plain, taught = recipe_grid.lines([line(42, 0.5, **soft), line(42, 0.4, readout=False, code=True)])
    assert "labels + code" in plain and plain.endswith("| 0.600 / 0.700 | – |")
    assert "| 5 | readout, 0.5 | 1: visits (42) | 0.500 / 0.800 |" in taught


def test_each_cell_of_the_grid_is_one_job() -> None:
    cells = [str(job) for job in recipe_grid.jobs()]
    assert len(cells) == len(set(cells)) == 106


def made_up_data(cells: dict[str, object]) -> dict[str, object]:
    """Twelve records of two labels; the prompt's last token gives the label away."""
    rows = [
        {"id": str(at), "label": at % 2, "prompt": prompt, "code_prompt": [2, *prompt], "answer": [5, 40 + at % 2, 7]}
        for at, prompt in enumerate([1, 10 + at, 30 + at % 2] for at in range(12))
    ]
    shares = {part: [[0.9, 0.1], [0.1, 0.9]] * 3 for part in ("train", "validation", "test")}
    ids = {"train": [str(at) for at in range(6)], "validation": [str(at) for at in range(6, 12)], "test": ["6", "7"]}
    split = {**ids, "tfidf": {**shares, "test": shares["test"][:2]}}
    codes = {"lead": [8], "codes": [50, 51]}
    return {"rows": rows, "shared": [5], "own": [[40], [41]], **codes, "splits": {str(cells["seed"]): split}}


def test_a_training_learns_and_leaves_the_lower_blocks_as_they_start(tmp_path: Path) -> None:
    student = Student(families.make(tmp_path / "model.gguf", families.FAMILIES["llama"]), "cpu")
    start_P = student.lora.values_P.clone()
    job = {"model": "smollm2", "set": "visits", "seed": 42, **recipe_grid.TFIDF, "code": True}
    found = trained(student, {**job, "layers": 1, "learning_rate": 1e-2, "epochs": 12}, made_up_data(job))
    assert found["looks"][-1]["log_loss"] < 0.9 * found["looks"][0]["log_loss"]
    assert found["validation"]["tfidf"] == {"macro_f1": 1.0, "log_loss": pytest.approx(-math.log(0.9))}
    moved = {
        layer.name: not torch.equal(*(student.lora.b(layer.name, flat) for flat in (start_P, student.lora.values_P)))
        for layer in student.lora.layers
    }
    assert [name for name, has in moved.items() if has] == [name for name in moved if name.startswith("blk.1.")]
