"""Conformal sets hold the true label as often as they promise, label by label, whatever the rater is worth."""

from __future__ import annotations

import numpy as np
import pytest

from expertune.stats.conformal import fewest_rows, fit_conformal

LABELS = ("Match", "Does Not Match", "Unknown")
SHARE_K = (0.45, 0.33, 0.22)
STUDIES, NEW_ROWS = 400, 1500


def rows(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Label probabilities of a rater that is too sure of itself and leans to the first label, and the true labels."""
    true_N = random.choice(len(LABELS), size=count, p=SHARE_K)
    score_NK = random.normal(size=(count, len(LABELS))) * 1.5 + np.array([0.8, 0.0, -0.4])
    score_NK[np.arange(count), true_N] += random.normal(1.5, 1.0, count)
    weight_NK = np.exp(2 * (score_NK - score_NK.max(axis=1, keepdims=True)))
    return weight_NK / weight_NK.sum(axis=1, keepdims=True), true_N


@pytest.mark.parametrize("nominal", [0.8, 0.9])
@pytest.mark.parametrize("dev_rows", [100, 200, 300, 500])
def test_coverage_is_within_two_points_of_what_is_promised(dev_rows: int, nominal: float) -> None:
    random = np.random.default_rng(dev_rows)
    covered: list[list[float]] = [[] for _ in LABELS]
    counts: list[list[int]] = [[] for _ in LABELS]
    overall = []
    for _ in range(STUDIES):
        share_NK, true_N = rows(random, dev_rows)
        found = fit_conformal(share_NK.tolist(), true_N.tolist(), LABELS, coverage=nominal)
        new_NK, new_true_N = rows(random, NEW_ROWS)
        held_N = new_NK[np.arange(NEW_ROWS), new_true_N] >= np.array(found.thresholds)[new_true_N]
        overall.append(held_N.mean())
        for k in range(len(LABELS)):
            covered[k].append(held_N[new_true_N == k].mean())
            counts[k].append(found.rows[k])
    assert abs(np.mean(overall) - nominal) < 0.02
    for k, label in enumerate(LABELS):
        mean, error = np.mean(covered[k]), np.std(covered[k]) / STUDIES**0.5
        # few rows of a label: the promise is kept, and overshot by less than one rank of them
        most = max(0.02, 1 / (min(counts[k]) + 1)) if np.mean(counts[k]) < 50 else 0.02
        assert -3 * error < mean - nominal < most, (label, mean, np.mean(counts[k]))


def test_a_set_is_what_the_thresholds_say() -> None:
    """The proof above looks at thresholds; the runner asks for the labels of a row."""
    random = np.random.default_rng(3)
    share_NK, true_N = rows(random, 200)
    found = fit_conformal(share_NK.tolist(), true_N.tolist(), LABELS, coverage=0.9)
    for share_K in rows(random, 300)[0]:
        expected = tuple(
            label for label, share, least in zip(LABELS, share_K, found.thresholds, strict=True) if share >= least
        )
        assert found.labels_for(share_K.tolist()) == expected


def test_too_few_rows_are_said_to_be_too_few() -> None:
    random = np.random.default_rng(4)
    share_NK, _ = rows(random, 40)
    true_N = np.array([0] * fewest_rows(0.9) + [1] * (fewest_rows(0.9) - 1) + [2] * (41 - 2 * fewest_rows(0.9)))
    found = fit_conformal(share_NK.tolist(), true_N.tolist(), LABELS, coverage=0.9)
    assert found.exact == (True, False, True)
    assert len(found.notes()) == 1 and "Does Not Match" in found.notes()[0]
