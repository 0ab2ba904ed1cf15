"""The pool of raters, and the label that is chosen by its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from expertune.stats import metrics
from expertune.stats.label_choice import choose, fit_label_weights
from expertune.stats.pooling import LogPool, fit_pool

PRIOR = np.array([0.6, 0.3, 0.1])


def drawn(records: int, seed: int, strength: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and their probabilities by Bayes' rule from each of two independent observations of a record."""
    draw = np.random.default_rng(seed)
    label_N = draw.choice(3, records, p=PRIOR)
    seen = [np.eye(3)[label_N] * strength + draw.normal(size=(records, 3)) for _ in range(2)]
    first_NK, second_NK = (softmax(x_NK * strength + np.log(PRIOR), axis=1) for x_NK in seen)
    return label_N, first_NK, second_NK


def log_loss(share_NK: np.ndarray, label_N: np.ndarray) -> float:
    return float(-np.log(share_NK[np.arange(len(label_N)), label_N]).mean())


def macro_f1(label_N: np.ndarray, chosen_N: np.ndarray) -> float:
    return float(metrics.macro_f1(metrics.confusion(label_N.tolist(), chosen_N.tolist(), 3)))


def test_a_single_calibrated_rater_stays_as_it_is() -> None:
    label_N, share_NK, _ = drawn(20_000, 0)
    pool = fit_pool([share_NK], label_N)
    assert pool.weights[0] == pytest.approx(1, abs=0.1) and pool.bias == pytest.approx([0, 0, 0], abs=0.1)
    np.testing.assert_allclose(pool.combine([share_NK]), share_NK, atol=0.03)


def test_raters_that_see_different_things_are_better_together_and_one_that_sees_nothing_has_no_weight() -> None:
    label_N, first_NK, second_NK = drawn(2000, 1, strength=1.0)
    nothing_NK = np.random.default_rng(2).dirichlet(np.ones(3), 2000)
    pool = fit_pool([first_NK, second_NK, nothing_NK], label_N)
    alone = min(log_loss(each, label_N) for each in (first_NK, second_NK))
    new_N, *new = drawn(2000, 3, strength=1.0)
    together_NK = pool.combine([*new, np.random.default_rng(4).dirichlet(np.ones(3), 2000)])
    assert log_loss(together_NK, new_N) < min(log_loss(each, new_N) for each in new) < alone + 0.05
    assert together_NK.sum(axis=1) == pytest.approx(1)
    assert pool.weights[2] < 0.05 < min(pool.weights[:2]) and min(pool.weights) >= 0


def test_a_rater_fitted_with_balanced_classes_gets_the_prior_back() -> None:
    label_N, share_NK, _ = drawn(20_000, 5)
    balanced_NK = share_NK / PRIOR
    balanced_NK /= balanced_NK.sum(axis=1, keepdims=True)
    pool = fit_pool([balanced_NK], label_N)
    np.testing.assert_allclose(pool.combine([balanced_NK]), share_NK, atol=0.03)


def test_a_probability_of_zero_is_no_fault() -> None:
    label_N = np.array([0, 1] * 20)
    share_NK = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]] * 20)
    combined_NK = fit_pool([share_NK], label_N).combine([share_NK])
    assert np.isfinite(combined_NK).all() and (combined_NK[:, 2] < 0.1).all()


def test_the_pool_of_no_weight_is_the_bias() -> None:
    found_NK = LogPool((0.0,), tuple(map(float, np.log(PRIOR)))).combine([np.full((2, 3), 1 / 3)])
    np.testing.assert_allclose(found_NK, [PRIOR, PRIOR])


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_labels_have_a_higher_macro_f1_than_the_likeliest(seed: int) -> None:
    """Fitted on 300 records without their labels, judged on 20,000 others."""
    _, fitted_NK, _ = drawn(300, seed, strength=0.6)
    label_N, share_NK, _ = drawn(20_000, 10 + seed, strength=0.6)
    weights = fit_label_weights(fitted_NK)
    assert weights[2] > weights[1] > weights[0] == 1.0
    ours, likeliest = macro_f1(label_N, choose(share_NK, weights)), macro_f1(label_N, share_NK.argmax(axis=1))
    best = max(macro_f1(label_N, choose(share_NK, PRIOR**-power)) for power in np.linspace(0, 1, 21))
    assert ours > likeliest + 0.02 and ours > best - 0.01


def test_labels_that_are_equally_common_or_certain_are_chosen_by_their_probability() -> None:
    even_NK = np.random.default_rng(0).dirichlet(np.ones(3), 5000)
    assert fit_label_weights(even_NK) == pytest.approx([1, 1, 1], abs=0.05)
    certain_NK = np.eye(3)[[0] * 60 + [1] * 30 + [2] * 10]
    assert choose(certain_NK, fit_label_weights(certain_NK)).tolist() == certain_NK.argmax(axis=1).tolist()
    never_NK = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]] * 10)
    assert 2 not in choose(never_NK, fit_label_weights(never_NK))
