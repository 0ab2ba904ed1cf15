from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.stats import metrics

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def matrix(pairs: list[tuple[int, int]], labels: int = 4) -> metrics.Floats:
    return metrics.confusion([t for t, _ in pairs], [p for _, p in pairs], labels)


def test_by_hand() -> None:
    # truth 0 0 0 1 1 2, predicted 0 0 1 1 2 2
    table = matrix([(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)], labels=3)
    assert table.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics.accuracy(table) == pytest.approx(4 / 6)
    assert metrics.f1(table) == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert metrics.macro_f1(table) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    # observed 4/6; by chance (3*2 + 2*2 + 1*2) / 36 = 1/3
    assert metrics.kappa(table) == pytest.approx((4 / 6 - 1 / 3) / (1 - 1 / 3))


@settings(deadline=None)  # the first example imports scikit-learn
@given(PAIRS)
def test_as_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score

    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    table = matrix(pairs)
    assert table.tolist() == confusion_matrix(truth, predicted, labels=range(4)).tolist()
    assert metrics.accuracy(table) == pytest.approx(accuracy_score(truth, predicted))
    assert metrics.macro_f1(table) == pytest.approx(f1_score(truth, predicted, average="macro"))
    weights = {None: None, "quadratic": metrics.quadratic(range(4))}
    for name, disagreement in weights.items():
        ours = float(metrics.kappa(table, disagreement))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns where kappa is undefined
            theirs = cohen_kappa_score(truth, predicted, labels=range(4), weights=name)
        assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


@given(PAIRS, st.permutations(range(4)), st.randoms())
def test_neither_order_nor_names_matter(pairs: list[tuple[int, int]], names: list[int], random) -> None:
    shuffled = [(names[t], names[p]) for t, p in pairs]
    random.shuffle(shuffled)
    for statistic in (metrics.accuracy, metrics.macro_f1, metrics.kappa):
        assert statistic(matrix(shuffled)) == pytest.approx(float(statistic(matrix(pairs))), nan_ok=True)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_perfect_rater(truth: list[int]) -> None:
    table = matrix([(label, label) for label in truth])
    assert metrics.accuracy(table) == metrics.macro_f1(table) == 1.0
    assert metrics.kappa(table) == 1.0 if len(set(truth)) > 1 else math.isnan(metrics.kappa(table))


def test_leading_axes_are_kept() -> None:
    tables = np.stack([matrix([(0, 0), (1, 2)]), matrix([(1, 1)])])[:, None]
    assert metrics.macro_f1(tables).shape == metrics.kappa(tables).shape == (2, 1)
    assert metrics.macro_f1(tables)[:, 0].tolist() == pytest.approx([1 / 3, 1.0])


def test_quadratic_takes_ranks_of_values_in_any_order() -> None:
    assert metrics.quadratic((3, 1, 2)).tolist() == [[0, 4, 1], [4, 0, 1], [1, 1, 0]]


def test_log_loss_as_scikit_learn() -> None:
    from sklearn.metrics import log_loss

    truth, shares = [0, 2, 1, 2], [[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]
    ours = metrics.log_loss(truth, shares)
    assert ours[[0, 2]].tolist() == pytest.approx([-math.log(0.7), -math.log(0.6)])
    assert ours.mean() == pytest.approx(log_loss(truth, shares, labels=range(3)))


def test_undefined_is_none() -> None:
    assert metrics.defined(float("nan")) is None
    assert metrics.defined(float(metrics.accuracy(np.zeros((2, 2))))) is None
    assert metrics.defined(np.float64(0.5)) == 0.5
