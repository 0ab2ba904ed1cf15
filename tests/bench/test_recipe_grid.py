"""bench/recipe_grid.py: its table and its jobs."""

from __future__ import annotations

import recipe_grid

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
