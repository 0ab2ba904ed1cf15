from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.evaluate import metrics
from expertune.evaluate.intervals import bootstrap, clusters, paired, percentiles, resamples, wilson


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662
    interval = wilson(81, 263, 0.95).interval
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_holds_the_share(hits_n: tuple[int, int], confidence: float) -> None:
    hits, n = hits_n
    estimate = wilson(hits, n, confidence)
    assert estimate.interval is not None
    assert 0 <= estimate.interval.low <= hits / n <= estimate.interval.high <= 1
    assert estimate.interval.low < estimate.interval.high


def test_wilson_of_nothing() -> None:
    assert (wilson(0, 0, 0.95).value, wilson(0, 0, 0.95).interval) == (None, None)


def rater(seed: int, rows: int, groups: int, labels: int = 3, right: float = 0.7):
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels, rows)
    guess = np.where(random.random(rows) < right, truth, random.integers(0, labels, rows))
    return truth.tolist(), guess.tolist(), random.integers(0, groups, rows).tolist()


def test_resampling_is_that_of_a_plain_loop() -> None:
    truth, guess, groups = rater(1, 90, 30)
    ours = resamples([clusters(truth, guess, 3, groups)], [metrics.macro_f1], 4000, 5)[0, 0]
    random, members = np.random.default_rng(8), [np.flatnonzero(np.array(groups) == g) for g in sorted(set(groups))]
    plain = []
    for _ in range(4000):
        rows = np.concatenate([members[at] for at in random.integers(0, len(members), len(members))])
        plain.append(float(metrics.macro_f1(metrics.confusion(np.array(truth)[rows], np.array(guess)[rows], 3))))
    # two independent simulations of one distribution: each quantile within 5 of its standard errors
    assert np.quantile(ours, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(plain, [0.025, 0.5, 0.975]), abs=0.012)


def test_the_seed_decides_and_chunks_do_not_change_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    one = clusters(*rater(2, 60, 60)[:2], 3, range(60))
    first, again, other = (bootstrap(one, [metrics.macro_f1, metrics.kappa], 300, seed, 0.95) for seed in (1, 1, 2))
    assert first == again != other
    monkeypatch.setattr("expertune.evaluate.intervals._CELLS", 60 * 7)
    assert resamples([one, one], [metrics.macro_f1], 300, 1).shape == (2, 1, 300)


def test_groups_that_repeat_a_row_widen_the_interval() -> None:
    truth, guess, _ = rater(3, 60, 60)
    alone = bootstrap(clusters(truth, guess, 3, range(60)), [metrics.macro_f1], 2000, 1, 0.95)[0].interval
    copies = clusters(truth * 9, guess * 9, 3, list(range(60)) * 9)
    copied = bootstrap(copies, [metrics.macro_f1], 2000, 1, 0.95)[0].interval
    naive = bootstrap(clusters(truth * 9, guess * 9, 3, range(540)), [metrics.macro_f1], 2000, 1, 0.95)[0].interval
    assert alone is not None and copied is not None and naive is not None
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_paired_difference() -> None:
    truth, good, _ = rater(4, 200, 200, right=0.9)
    bad = rater(4, 200, 200, right=0.2)[1]
    first, second = (clusters(truth, guess, 3, range(200)) for guess in (good, bad))
    estimate = paired(first, second, metrics.macro_f1, 1000, 1, 0.95)
    assert estimate.interval is not None and estimate.value is not None
    assert 0 < estimate.interval.low < estimate.value < estimate.interval.high
    reverse = paired(second, first, metrics.macro_f1, 1000, 1, 0.95)
    assert reverse.interval is not None
    assert (reverse.interval.low, reverse.interval.high) == pytest.approx(
        (-estimate.interval.high, -estimate.interval.low)
    )
    same = paired(first, first, metrics.macro_f1, 1000, 1, 0.95)
    assert (same.value, same.interval) == (0.0, None)


def test_no_interval_where_nothing_varies() -> None:
    perfect = bootstrap(clusters([0, 1, 2], [0, 1, 2], 3, range(3)), [metrics.macro_f1], 200, 1, 0.95)[0]
    assert (perfect.value, perfect.interval) == (1.0, None)
    assert bootstrap(clusters([0, 1], [0, 0], 3, "aa"), [metrics.macro_f1], 200, 1, 0.95)[0].interval is None
    assert percentiles(np.full(5, np.nan), 0.95, 5) is None


@pytest.mark.slow
@pytest.mark.parametrize("correlated", [False, True])
def test_coverage(correlated: bool) -> None:
    """The 95 % interval holds the true macro-F1 in about 95 % of 1,000 studies of 120 patients with 2 rows each."""
    random, labels, right = np.random.default_rng(0), 3, 0.7
    share = np.array([0.5, 0.3, 0.2])
    joint = np.array(
        [[share[t] * (right * (t == p) + (1 - right) / labels) for p in range(labels)] for t in range(labels)]
    )
    true_value = float(metrics.macro_f1(joint))
    inside = 0
    for study in range(1000):
        draws = random.choice(labels * labels, size=120 if correlated else 240, p=joint.ravel())
        cells = np.repeat(draws, 2) if correlated else draws
        truth, guess, patients = cells // labels, cells % labels, np.repeat(range(120), 2)
        rows = clusters(truth.tolist(), guess.tolist(), labels, patients.tolist())
        interval = bootstrap(rows, [metrics.macro_f1], 400, study, 0.95)[0].interval
        inside += interval is not None and interval.low <= true_value <= interval.high
    # the percentile interval is known to fall a little short; 0.915 is 5 standard errors below 0.95
    assert 0.915 <= inside / 1000 <= 0.975, inside


@pytest.mark.slow
@pytest.mark.parametrize("rows", [12, 100])
def test_equal_raters_are_seldom_called_better(rows: int) -> None:
    """Two raters of one skill: a difference above 0 is "proven" in about 2.5 % of 800 studies, small ones included."""
    random, share, proven = np.random.default_rng(rows), [0.5, 0.35, 0.15], 0
    for study in range(800):
        truth = random.choice(3, size=rows, p=share)
        first, second = (
            clusters(truth.tolist(), np.where(random.random(rows) < 0.6, truth, guess).tolist(), 3, range(rows))
            for guess in random.choice(3, size=(2, rows), p=share)
        )
        interval = paired(first, second, metrics.macro_f1, 400, study, 0.95).interval
        proven += interval is not None and interval.low > 0
    assert proven / 800 <= 0.05, proven
