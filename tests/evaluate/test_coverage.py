from __future__ import annotations

import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.evaluate.coverage import conformal_coverage
from expertune.stats.conformal import Conformal


def test_by_hand() -> None:
    """A probability of 0.8 for the rated label and 0.1 for the others: only "Unknown" stays beside what was rated."""
    thresholds = Conformal(0.9, SCALE.labels, (0.5, 0.9, 0.05), (30, 30, 3), (True, True, False))
    expert, model = [0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0]
    found = conformal_coverage(
        thresholds, truth(expert), list(reversed(rated(model))), SCALE, {"r0": "p", "r1": "p"}, 0.95
    )
    match, other, unknown = found.labels
    assert (match.covered.value, match.covered.n) == (pytest.approx(2 / 3), 3)
    assert match.covered.effective_n is not None and 1 < match.covered.effective_n < 2  # two rows are one patient's
    assert (other.covered.value, other.mean_size) == (0.0, 1.0)  # 0.8 is below 0.9: {Unknown} alone
    assert (unknown.covered.value, unknown.mean_size, unknown.exact) == (1.0, 1.5, False)
    assert (found.nominal, found.covered.value, found.mean_size) == (0.9, pytest.approx(4 / 6), pytest.approx(9 / 6))
    assert (found.single.value, found.empty.value) == (0.5, 0.0)


def test_a_label_without_rows() -> None:
    thresholds = Conformal(0.9, SCALE.labels, (0.5, 0.5, 0.5), (30, 30, 0), (True, True, False))
    found = conformal_coverage(thresholds, truth([0, 1]), rated([0, 0]), SCALE, {}, 0.95)
    assert (found.labels[2].covered.value, found.labels[2].mean_size) == (None, None)
    assert found.labels[1].covered.value == 0.0
