from __future__ import annotations

import math

import pytest
from pool import Z95, pooled

ONE = {"value": 0.6, "low": 0.5, "high": 0.7}


def test_splits_that_agree_say_what_one_says() -> None:
    found = pooled([ONE] * 3)
    assert found is not None
    assert found["value"] == pytest.approx(0.6)
    assert (found["low"], found["high"]) == (pytest.approx(0.5), pytest.approx(0.7))


def test_by_hand() -> None:
    from scipy.stats import t

    found = pooled(
        [{"value": value, "low": value - Z95 * 0.03, "high": value + Z95 * 0.03} for value in (0.5, 0.6, 0.7)]
    )
    within, between = 0.03**2, 0.01 * (1 + 1 / 3)
    reach = t.ppf(0.975, 2 * ((within + between) / between) ** 2) * math.sqrt(within + between)
    assert found == {"value": pytest.approx(0.6), "low": pytest.approx(0.6 - reach), "high": pytest.approx(0.6 + reach)}


def test_one_split_keeps_its_interval() -> None:
    found = pooled([ONE])
    assert found == {"value": 0.6, "low": pytest.approx(0.5), "high": pytest.approx(0.7)}


def test_without_an_interval_anywhere_there_is_none() -> None:
    assert pooled([ONE, {"value": 0.4, "low": None, "high": None}]) == {"value": 0.5, "low": None, "high": None}
    assert pooled([]) is None
    assert pooled([ONE, {"value": None, "low": None, "high": None}]) is None
