"""The figures of a run's raters, computed again from its test_predictions.csv alone, by scikit-learn."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, log_loss

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def raters(rows: list[Row]) -> list[str]:
    """The raters as the columns name them, in their order."""
    return [name.removesuffix("_label") for name in rows[0] if name.endswith("_label")]


def figures(rows: list[Row], rater: str) -> dict[str, float]:
    """Of the records that this rater rated."""
    rated = [row for row in rows if row[f"{rater}_label"]]
    columns = [name for name in rows[0] if name.startswith(f"{rater}_p_")]
    share_NK = np.array([[float(row[name]) for name in columns] for row in rated])
    true_N = np.array([columns.index(f"{rater}_p_{re.sub('[^a-z0-9]+', '_', row['expert'].lower())}") for row in rated])
    expert, given = [row["expert"] for row in rated], [row[f"{rater}_label"] for row in rated]
    return {
        "rows": len(rated),
        "groups": len({row["group"] for row in rated}),
        "accuracy": accuracy_score(expert, given),
        "macro_f1": f1_score(expert, given, average="macro"),
        "kappa": cohen_kappa_score(expert, given),
        "log_loss": log_loss(true_N, share_NK, labels=range(len(columns))),
        "brier": float(np.square(share_NK - np.eye(len(columns))[true_N]).sum(axis=1).mean()),
    }


def coverage(rows: list[Row]) -> dict[str, float]:
    sets = [row["conformal_set"].split(" | ") if row["conformal_set"] else [] for row in rows]
    return {
        "covered": float(np.mean([row["expert"] in each for row, each in zip(rows, sets, strict=True)])),
        "mean_size": float(np.mean([len(each) for each in sets])),
    }


def assert_figures_are_those_of(path: Path, evaluation: dict[str, Any]) -> None:
    """Compare every figure of the file with the part "evaluation" of fine_tuning_metadata.json."""
    rows = read_rows(path)
    named = raters(rows)
    assert len(named) == len(evaluation["evaluations"]) >= 4
    for name, each in zip(named, evaluation["evaluations"], strict=True):
        plain = {"rows": each["rows"], "groups": each["groups"], "brier": each["calibration"]["brier"]}
        expected = plain | {figure: each[figure]["value"] for figure in ("accuracy", "macro_f1", "kappa", "log_loss")}
        assert figures(rows, name) == pytest.approx(expected, abs=1e-9), name
    conformal = evaluation["conformal"]
    expected = {"covered": conformal["covered"]["value"], "mean_size": conformal["mean_size"]}
    assert coverage(rows) == pytest.approx(expected, abs=1e-9)
