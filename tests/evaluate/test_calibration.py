from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.stats.reliability import BINS, calibrate


def test_by_hand() -> None:
    found = calibrate([0, 1, 0], [(0.9, 0.1), (0.65, 0.35), (0.62, 0.38)])
    assert found.brier == pytest.approx((2 * 0.1**2 + 2 * 0.65**2 + 2 * 0.38**2) / 3)
    # bin (0.6, 0.7]: two rows, mean confidence 0.635, half right; bin (0.8, 0.9]: one row at 0.9, right
    assert [each.accuracy.n for each in found.bins] == [0, 0, 0, 0, 0, 0, 2, 0, 1, 0]
    assert found.bins[6].confidence == pytest.approx(0.635)
    assert found.bins[6].accuracy.value == 0.5
    assert found.bins[0].confidence is None and found.bins[0].accuracy.value is None
    assert found.expected_error == pytest.approx((2 * 0.135 + 0.1) / 3)


def test_as_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss

    random = np.random.default_rng(0)
    first = random.random(200)
    truth = (random.random(200) < first).astype(int)
    found = calibrate(truth.tolist(), np.column_stack([1 - first, first]).tolist())
    assert found.brier == pytest.approx(2 * brier_score_loss(truth, first))  # sklearn counts one of the two labels


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=40))
def test_bounds(rows: list[tuple[int, float]]) -> None:
    found = calibrate([label for label, _ in rows], [(p, (1 - p) / 2, (1 - p) / 2) for _, p in rows])
    assert found.brier is not None and found.expected_error is not None
    assert 0 <= found.brier <= 2 and 0 <= found.expected_error <= 1
    assert len(found.bins) == BINS and sum(each.accuracy.n for each in found.bins) == len(rows)


def test_sure_and_right_or_wrong() -> None:
    right, wrong = (calibrate([label], [(1.0, 0.0)]) for label in (0, 1))
    assert (right.brier, right.expected_error) == (0.0, 0.0)
    assert (wrong.brier, wrong.expected_error) == (2.0, 1.0)
    assert calibrate([], []).brier is None
