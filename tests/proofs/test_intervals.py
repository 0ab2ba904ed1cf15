"""Intervals hold the truth as often as they say: studies are simulated from a known truth, rows of a patient alike."""

from __future__ import annotations

import numpy as np
import pytest

from expertune.stats import metrics
from expertune.stats.intervals import KAPPA, MACRO_F1, Clusters, Estimate, bootstrap, paired, wilson, wilson_clustered

LABELS = 3
SHARE_K = np.array([0.5, 0.35, 0.15])
ALIKE = 0.7  # chance that a row of a patient is the patient's own case again
STUDIES, RESAMPLES = 2000, 300
BOUNDS = (0.93, 0.97)  # at 0.95 two thousand studies err by 0.5 points


def joint(right: float) -> metrics.Floats:
    """The known truth: the rater is right, or guesses by the labels' shares. Shape: (true, rated)."""
    guessed_TP = (1 - right) * np.outer(SHARE_K, SHARE_K)
    return guessed_TP + right * np.diag(SHARE_K)


def study(random: np.random.Generator, patients: int, right: float, most_rows: int) -> Clusters:
    """One to `most_rows` rows of each patient."""
    chance_C = joint(right).ravel()
    patient_N = np.repeat(np.arange(patients), random.integers(1, most_rows + 1, patients))
    own_N, case_G = (random.choice(LABELS**2, size=size, p=chance_C) for size in (len(patient_N), patients))
    cell_N = np.where(random.random(len(patient_N)) < ALIKE, case_G[patient_N], own_N)
    counts_GC = np.zeros((patients, LABELS**2))
    np.add.at(counts_GC, (patient_N, cell_N), 1)
    return Clusters(counts_GC.reshape(patients, LABELS, LABELS))


class Tally:
    """How often each interval held its truth."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def add(self, name: str, estimate: Estimate, true_value: float) -> None:
        if estimate.interval is not None:
            held = estimate.interval.low <= true_value <= estimate.interval.high
            self.held.setdefault(name, []).append(held)

    def coverage(self) -> dict[str, float]:
        return {name: round(sum(held) / len(held), 4) for name, held in self.held.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "right", "most_rows"), [(60, 0.6, 1), (60, 0.85, 3), (150, 0.6, 3), (150, 0.85, 1)]
)
def test_coverage_of_the_intervals(patients: int, right: float, most_rows: int) -> None:
    random, tally = np.random.default_rng(patients * most_rows), Tally()
    truth_TP = joint(right)
    for number in range(STUDIES):
        rater = study(random, patients, right, most_rows)
        counts_GTP = rater.counts_GTP
        for name, statistic, found in zip(
            ("macro-F1", "kappa"),
            (MACRO_F1, KAPPA),
            bootstrap(rater, [MACRO_F1, KAPPA], RESAMPLES, number, 0.95),
            strict=True,
        ):
            tally.add(name, found, float(statistic.of(truth_TP)))
        accuracy = wilson_clustered(counts_GTP.trace(axis1=1, axis2=2), counts_GTP.sum(axis=(1, 2)), 0.95)
        tally.add("accuracy", accuracy, float(truth_TP.trace()))
        sensitivity = wilson_clustered(counts_GTP[:, 0, 0], counts_GTP[:, 0].sum(axis=1), 0.95)
        tally.add("sensitivity", sensitivity, float(truth_TP[0, 0] / truth_TP[0].sum()))
    coverage = tally.coverage()
    assert all(len(held) > 0.99 * STUDIES for held in tally.held.values())
    assert {name: found for name, found in coverage.items() if not BOUNDS[0] <= found <= BOUNDS[1]} == {}, coverage


@pytest.mark.slow
@pytest.mark.parametrize("rows", [60, 150])
def test_coverage_of_a_paired_difference(rows: int) -> None:
    random, tally = np.random.default_rng(rows), Tally()
    first, second = 0.8, 0.6
    true_value = float(MACRO_F1.of(joint(first)) - MACRO_F1.of(joint(second)))
    for number in range(STUDIES):
        true_N = random.choice(LABELS, size=rows, p=SHARE_K)
        raters = []
        for right in (first, second):
            said_N = np.where(random.random(rows) < right, true_N, random.choice(LABELS, size=rows, p=SHARE_K))
            raters.append(Clusters(metrics.confusion(true_N.tolist(), said_N.tolist(), LABELS, np.arange(rows), rows)))
        tally.add("difference", paired(*raters, MACRO_F1, RESAMPLES, number, 0.95), true_value)
    assert BOUNDS[0] <= tally.coverage()["difference"] <= BOUNDS[1], tally.coverage()


def test_without_the_design_effect_wilson_would_hold_the_truth_too_seldom() -> None:
    """Why the groups count: three rows of a patient taken as independent."""
    random, tally = np.random.default_rng(7), Tally()
    for _ in range(400):
        counts_GTP = study(random, 100, 0.7, 3).counts_GTP
        hit_G, rows_G = counts_GTP.trace(axis1=1, axis2=2), counts_GTP.sum(axis=(1, 2))
        tally.add("plain", wilson(int(hit_G.sum()), int(rows_G.sum()), 0.95), float(joint(0.7).trace()))
        tally.add("grouped", wilson_clustered(hit_G, rows_G, 0.95), float(joint(0.7).trace()))
    coverage = tally.coverage()
    assert coverage["plain"] < 0.91 < coverage["grouped"]
