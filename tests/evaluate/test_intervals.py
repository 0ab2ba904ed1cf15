from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.stats import metrics
from expertune.stats.intervals import (
    KAPPA,
    MACRO_F1,
    bootstrap,
    bootstrap_interval,
    clusters,
    difference_clustered,
    group_sums,
    mean_clustered,
    paired,
    resamples,
    wilson,
    wilson_clustered,
)


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


def test_a_paired_difference_is_students_t_where_every_row_is_its_own_group() -> None:
    from scipy.stats import ttest_1samp

    difference_N = np.random.default_rng(3).normal(0.1, 1.0, 40)
    ours = difference_clustered(difference_N, range(40), 0.9)
    theirs = ttest_1samp(difference_N, 0.0).confidence_interval(0.9)
    assert ours.interval is not None and ours.value == pytest.approx(difference_N.mean())
    assert (ours.interval.low, ours.interval.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert difference_clustered(np.full(5, 0.2), range(5), 0.9).interval is None  # nothing varies


def test_repeated_rows_in_one_group_do_not_narrow_a_paired_difference() -> None:
    difference_N = np.random.default_rng(4).normal(0.0, 1.0, 20)
    once, thrice = (difference_clustered(np.repeat(difference_N, n), np.repeat(np.arange(20), n).tolist(), 0.95)
                    for n in (1, 3))  # fmt: skip
    assert once.interval is not None and thrice.interval is not None
    assert thrice.interval.high == pytest.approx(once.interval.high) and (once.n, thrice.n) == (20, 60)


def test_group_sums_by_hand() -> None:
    sum_G, rows_G = group_sums(np.array([1.0, 2.0, 4.0]), ["b", "a", "b"])
    assert (sum_G.tolist(), rows_G.tolist()) == ([5.0, 2.0], [2.0, 1.0])


def rater(seed: int, rows: int, groups: int, labels: int = 3, right: float = 0.7):
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels, rows)
    guess = np.where(random.random(rows) < right, truth, random.integers(0, labels, rows))
    return truth.tolist(), guess.tolist(), random.integers(0, groups, rows).tolist()


def test_resampling_is_that_of_a_plain_loop() -> None:
    truth, guess, groups = rater(1, 90, 30)
    ours = resamples([clusters(truth, guess, 3, groups)], [MACRO_F1], 4000, 5)[0, 0]
    random, members = np.random.default_rng(8), [np.flatnonzero(np.array(groups) == g) for g in sorted(set(groups))]
    plain = []
    for _ in range(4000):
        rows = np.concatenate([members[at] for at in random.integers(0, len(members), len(members))])
        plain.append(float(metrics.macro_f1(metrics.confusion(np.array(truth)[rows], np.array(guess)[rows], 3))))
    # two independent simulations of one distribution: each quantile within 5 of its standard errors
    assert np.quantile(ours, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(plain, [0.025, 0.5, 0.975]), abs=0.012)


def test_the_seed_decides_and_chunks_do_not_change_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    one = clusters(*rater(2, 60, 60)[:2], 3, range(60))
    first, again, other = (bootstrap(one, [MACRO_F1, KAPPA], 300, seed, 0.95) for seed in (1, 1, 2))
    assert first == again != other
    monkeypatch.setattr("expertune.stats.intervals._CELLS", 60 * 7)
    assert resamples([one, one], [MACRO_F1], 300, 1).shape == (2, 1, 300)


def test_groups_that_repeat_a_row_widen_the_interval() -> None:
    truth, guess, _ = rater(3, 60, 60)
    alone = bootstrap(clusters(truth, guess, 3, range(60)), [MACRO_F1], 2000, 1, 0.95)[0].interval
    copies = clusters(truth * 9, guess * 9, 3, list(range(60)) * 9)
    copied = bootstrap(copies, [MACRO_F1], 2000, 1, 0.95)[0].interval
    naive = bootstrap(clusters(truth * 9, guess * 9, 3, range(540)), [MACRO_F1], 2000, 1, 0.95)[0].interval
    assert alone is not None and copied is not None and naive is not None
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_paired_difference() -> None:
    truth, good, _ = rater(4, 200, 200, right=0.9)
    bad = rater(4, 200, 200, right=0.2)[1]
    first, second = (clusters(truth, guess, 3, range(200)) for guess in (good, bad))
    estimate = paired(first, second, MACRO_F1, 1000, 1, 0.95)
    assert estimate.interval is not None and estimate.value is not None
    assert 0 < estimate.interval.low < estimate.value < estimate.interval.high
    reverse = paired(second, first, MACRO_F1, 1000, 1, 0.95)
    assert reverse.interval is not None
    assert (reverse.interval.low, reverse.interval.high) == pytest.approx(
        (-estimate.interval.high, -estimate.interval.low)
    )
    same = paired(first, first, MACRO_F1, 1000, 1, 0.95)
    assert (same.value, same.interval) == (0.0, None)


def test_no_interval_where_nothing_varies() -> None:
    perfect = bootstrap(clusters([0, 1, 2], [0, 1, 2], 3, range(3)), [MACRO_F1], 200, 1, 0.95)[0]
    assert (perfect.value, perfect.interval) == (1.0, None)
    assert bootstrap(clusters([0, 1], [0, 0], 3, "aa"), [MACRO_F1], 200, 1, 0.95)[0].interval is None
    assert bootstrap_interval(0.5, np.full(5, np.nan), (0, 1), 5, 0.95) is None
    assert bootstrap_interval(None, np.arange(5) / 5, (0, 1), 5, 0.95) is None


def test_the_interval_by_hand() -> None:
    """Standard error 0.1 of a figure of 0.8 from 5 groups: t(4) = 2.776, the logit's slope 1 / 0.16."""
    values = np.array([0.7, 0.8, 0.9])
    found = bootstrap_interval(0.8, values, (0, 1), 5, 0.95)
    step = 2.77645 * 0.1 * (5 / 4) ** 0.5 / 0.16
    ends = [1 / (1 + math.exp(-(math.log(4) + way * step))) for way in (-1, 1)]
    assert found is not None and [found.low, found.high] == pytest.approx(ends, rel=1e-4)
    wide = bootstrap_interval(0.6, 2 * values - 1, (-1, 1), 5, 0.95)
    assert wide is not None and [wide.low, wide.high] == pytest.approx([2 * end - 1 for end in ends], rel=1e-4)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=30),
    st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 1.0])),
    st.integers(2, 50),
)
def test_an_interval_holds_its_figure_and_stays_in_its_range(values: list[float], value: float, groups: int) -> None:
    found = bootstrap_interval(value, np.array(values), (-1, 1), groups, 0.95)
    assert found is None or (-1 <= found.low <= value + 1e-9 and value - 1e-9 <= found.high <= 1)


def test_groups_of_alike_rows_count_as_one_row_each() -> None:
    """Nine copies of each row say nothing new: the interval stays that of the single rows."""
    hits = np.array([1.0] * 20 + [0.0] * 10)
    single, copies = wilson(20, 30, 0.95), wilson_clustered(9 * hits, np.full(30, 9.0), 0.95)
    assert single.interval is not None and copies.interval is not None
    assert copies.n == 270 and copies.effective_n == pytest.approx(29)  # 30 groups estimate a variance on 29
    assert copies.interval.high - copies.interval.low == pytest.approx(
        single.interval.high - single.interval.low, rel=0.03
    )
    assert wilson_clustered(hits, np.ones(30), 0.95) == single
    never = wilson_clustered(np.zeros(30), np.full(30, 9.0), 0.95)
    assert (never.value, never.effective_n) == (0.0, 30) and never.interval == replace(
        wilson(0, 30, 0.95).interval, method="Wilson, as of 30.0 independent rows"
    )
    assert wilson_clustered(np.zeros(3), np.zeros(3), 0.95).value is None


@given(st.lists(st.integers(0, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=30))
def test_groups_never_narrow_an_interval(counts: list[tuple[int, int]]) -> None:
    hits, rows = np.array(counts, dtype=float).T
    grouped, plain = wilson_clustered(hits, rows, 0.95), wilson(int(hits.sum()), int(rows.sum()), 0.95)
    assert grouped.value == plain.value
    if grouped.interval is not None and plain.interval is not None:
        assert grouped.interval.low <= plain.interval.low + 1e-9 and grouped.interval.high >= plain.interval.high - 1e-9


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
        interval = paired(first, second, MACRO_F1, 400, study, 0.95).interval
        proven += interval is not None and interval.low > 0
    assert proven / 800 <= 0.05, proven


def test_the_interval_of_a_mean_covers_it() -> None:
    random = np.random.default_rng(11)
    hits, draws, groups = 0, 600, 60
    for _ in range(draws):
        rows = random.integers(1, 4, groups)
        level = random.exponential(1.0, groups)  # rows of a group are alike
        sums = np.array([(level[at] + random.exponential(0.5, n)).sum() for at, n in enumerate(rows)])
        interval = mean_clustered(sums, rows.astype(float), 0.95).interval
        assert interval is not None
        hits += interval.low <= 1.5 <= interval.high
    assert 0.92 <= hits / draws <= 0.97


def test_a_mean_without_spread_or_with_one_group_has_no_interval() -> None:
    same = mean_clustered(np.array([2.0, 4.0]), np.array([1.0, 2.0]), 0.95)
    one = mean_clustered(np.array([2.0]), np.array([4.0]), 0.95)
    assert (same.value, same.interval, same.n) == (2.0, None, 3)
    assert (one.value, one.interval) == (0.5, None)
    assert mean_clustered(np.zeros(0), np.zeros(0), 0.95).value is None
