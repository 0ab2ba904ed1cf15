from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.evaluate.compare import evaluate
from expertune.evaluate.prevalence import at_prevalence, predictive_values
from expertune.stats.intervals import wilson


def shares(hits: int, n: int, rejected: int, m: int):
    return wilson(hits, n, 0.95), wilson(rejected, m, 0.95)


def test_bayes_by_hand() -> None:
    ppv, npv = predictive_values(*shares(90, 100, 160, 200), 0.01, 0.95)
    assert ppv.value == pytest.approx(0.01 * 0.9 / (0.01 * 0.9 + 0.99 * 0.2))
    assert npv.value == pytest.approx(0.99 * 0.8 / (0.99 * 0.8 + 0.01 * 0.1))


def test_the_interval_is_that_of_the_delta_method() -> None:
    """Against the spread of a million draws of the two shares, with the added hits and misses."""
    draw = np.random.default_rng(0)
    z = 1.959964
    n, m = 400 + z * z, 300 + z * z
    true_share, false_share = (320 + z * z / 2) / n, (270 + z * z / 2) / m
    found = draw.normal(true_share, np.sqrt(true_share * (1 - true_share) / n), 10**6)
    rejected = draw.normal(false_share, np.sqrt(false_share * (1 - false_share) / m), 10**6)
    logit = np.log(0.05 / 0.95) + np.log(found / (1 - rejected))
    middle, spread = np.log(0.05 / 0.95) + np.log(true_share / (1 - false_share)), logit.std()
    ppv, _ = predictive_values(*shares(320, 400, 270, 300), 0.05, 0.95)
    assert ppv.interval is not None
    ends = 1 / (1 + np.exp(-(middle + np.array([-z, z]) * spread)))
    assert [ppv.interval.low, ppv.interval.high] == pytest.approx(list(ends), rel=0.02)


COUNTS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, COUNTS, st.floats(0.0001, 0.9999))
def test_figures_stay_in_their_intervals_and_between_0_and_1(hit, rejected, prevalence: float) -> None:
    for found in predictive_values(*shares(*hit, *rejected), prevalence, 0.95):
        if found.value is not None:
            assert found.interval is not None
            assert 0 <= found.interval.low <= found.value <= found.interval.high <= 1


def test_at_the_share_of_the_test_rows_they_are_those_of_the_test_rows() -> None:
    expert, model = [0, 1, 2, 0, 1, 0] * 10, [0, 1, 1, 2, 1, 0] * 10
    found = evaluate("tuned", truth(expert), rated(model), SCALE, {}, Config(bootstrap_resamples=100))
    part = at_prevalence(found, None)
    for label, each in zip(part.labels, found.per_class, strict=True):
        assert label.prevalence == label.in_test == each.support / 60
        assert label.ppv.value == pytest.approx(each.ppv.value)
        assert label.npv.value == pytest.approx(each.npv.value)
    ppvs = [point.ppv for point in part.labels[0].curve]
    assert ppvs == sorted(ppvs) and len(ppvs) > 20
    assert [part.labels[0].curve[at].prevalence for at in (0, -1)] == pytest.approx([0.001, 0.5])


def test_a_label_that_has_no_rows_has_no_figures() -> None:
    found = evaluate("tuned", truth([0, 1] * 10), rated([0, 1] * 10), SCALE, {}, Config(bootstrap_resamples=100))
    label = at_prevalence(found, None).labels[2]
    assert (label.ppv.value, label.curve) == (None, ())
