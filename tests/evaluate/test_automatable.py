"""Automatable share: right values, and its guarantee in simulations whose error rates are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.evaluate.automatable import automatable_share
from expertune.stats.calibration import Calibration
from expertune.stats.selective import Outcomes, Selection, fewest_records, select

EASY = 0.4  # of the simulated confidences, where an easy record begins


def outcomes(confidence: list[float], wrong: list[bool]) -> Outcomes:
    return Outcomes(np.array(confidence), np.array(wrong, dtype=np.bool_))


def selected(
    chosen_on: Outcomes, tested_on: Outcomes, groups: list[int] | None = None, *, max_error: float = 0.05
) -> Selection | None:
    own = groups or list(range(len(tested_on.wrong_N)))
    return select(chosen_on, tested_on, own, max_error=max_error, confidence=0.95)


def test_the_fewest_records_are_those_of_the_rule_of_three() -> None:
    assert fewest_records(0.05, 0.95) == 59 and fewest_records(0.1, 0.95) == 29 and fewest_records(0.01, 0.95) == 299


def test_without_an_error_the_lowest_threshold_of_the_first_records_is_proved() -> None:
    first = outcomes([0.5, 0.7, 0.9], [False] * 3)
    second = outcomes([0.4 + 0.005 * at for at in range(100)], [False] * 100)
    found = selected(first, second)
    assert found is not None and found.threshold == 0.5
    assert (found.share.value, found.share.n) == (0.8, 100) and (found.error.value, found.error.n) == (0.0, 80)
    assert found.error_bound == pytest.approx(1 - 0.05 ** (1 / 80))  # Clopper and Pearson's for no error
    assert found.share.interval is not None and found.share.interval.low < 0.8 < found.share.interval.high


def test_the_sequence_ends_at_the_first_threshold_that_is_not_proved() -> None:
    first = outcomes([0.9] * 40 + [0.6] * 5 + [0.3] * 55, [False] * 40 + [True] * 5 + [False] * 55)
    second = outcomes([0.95] * 100 + [0.65] * 30 + [0.35] * 900, [False] * 100 + [True] * 30 + [False] * 900)
    found = selected(first, second)
    assert found is not None and found.threshold == 0.9 and found.error.n == 100
    # all records together have an error rate below 5 %, but a test that failed is in between
    assert 30 / 1030 < 0.05


@pytest.mark.parametrize("tested", [58, 0])
def test_too_few_records_prove_nothing(tested: int) -> None:
    assert selected(outcomes([0.8], [False]), outcomes([0.9] * tested, [False] * tested)) is None


def test_nothing_to_choose_on_proves_nothing() -> None:
    assert selected(outcomes([], []), outcomes([0.9] * 100, [False] * 100)) is None


def test_records_of_one_patient_count_less() -> None:
    first, second = outcomes([0.8], [False]), outcomes([0.9] * 100, [False] * 100)
    assert selected(first, second) is not None
    assert selected(first, second, [at // 2 for at in range(100)]) is None  # 50 patients prove less than 59 records


Error = Callable[[np.ndarray], np.ndarray]  # error rate at a confidence


def flat(confidence_N: np.ndarray) -> np.ndarray:
    return np.full(len(confidence_N), 0.051)


def step(confidence_N: np.ndarray) -> np.ndarray:
    return np.where(confidence_N > EASY, 0.02, 0.3)


def slope(confidence_N: np.ndarray) -> np.ndarray:
    return 0.12 * (1 - confidence_N)


def draw(error: Error, records: int, random: np.random.Generator) -> Outcomes:
    confidence_N = random.random(records)
    return Outcomes(confidence_N, random.random(records) < error(confidence_N))


def true_error(error: Error, threshold: float) -> float:
    return float(error(threshold + (1 - threshold) * (np.arange(2000) + 0.5) / 2000).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("error", "records"), [(flat, 300), (flat, 1000), (step, 300), (slope, 300)])
def test_the_error_rate_holds_at_its_confidence(error: Error, records: int) -> None:
    random = np.random.default_rng(17)
    studies = 500
    found = [selected(draw(error, 100, random), draw(error, records, random)) for _ in range(studies)]
    wrong = sum(each is not None and true_error(error, each.threshold) > 0.05 for each in found)
    assert wrong <= 0.05 * studies
    if error is flat and records == 1000:
        assert wrong > 0  # the limit is exceeded at every threshold, so the test can fail


@pytest.mark.slow
def test_the_share_is_found_and_its_interval_holds() -> None:
    random = np.random.default_rng(5)
    largest = 1 - 0.328  # 0.02 above EASY and 0.3 below have a mean of 0.05 from 0.328 on
    assert true_error(step, 0.328) == pytest.approx(0.05, abs=1e-3)
    found = [selected(draw(step, 200, random), draw(step, 1600, random)) for _ in range(100)]
    shares = [each.share for each in found if each is not None]
    assert len(shares) >= 80
    assert 0.5 < np.median([each.value or 0 for each in shares]) <= largest
    held = [
        each.share.interval is not None and each.share.interval.low <= 1 - each.threshold <= each.share.interval.high
        for each in found
        if each is not None
    ]
    assert np.mean(held) >= 0.93


# --- of a product ---


def test_of_a_product_with_its_calibration() -> None:
    labels = [0, 1] * 100
    expert, ratings = truth(labels), rated(labels, sure=0.8)
    config = Config(max_error_rate=0.05)
    found = automatable_share((expert[:50], ratings[:50]), (expert, ratings), SCALE, {}, None, config)
    assert (found.threshold, found.records, found.fewest_records) == (0.8, 200, 59)
    assert found.share.value == 1.0 and found.error.value == 0.0
    assert "100% of the records [98% to 100%], those with a Confidence of 0.8 or more (0 of 200" in found.line()
    # the written label is the judged one, with its calibrated probability
    biased = Calibration(1.0, (0.0, 0.0, 5.0), "", 50, 1.0, 1.0, "")
    unsure = automatable_share((expert[:50], ratings[:50]), (expert, ratings), SCALE, {}, biased, config)
    assert unsure.threshold == pytest.approx(0.0508, abs=1e-4) and unsure.error.value == 0.0
    others = rated([1 - label for label in labels], sure=0.8)
    wrong = automatable_share((expert[:50], others[:50]), (expert, others), SCALE, {}, None, config)
    assert wrong.threshold is None and wrong.share is None and wrong.error_bound is None
    assert "none proved; at least 59 accepted records without an error are needed, and 200 were" in wrong.line()


def test_the_stated_error_rate_is_the_settings() -> None:
    labels = [0, 1] * 20
    expert, ratings = truth(labels), rated(labels)
    parts = ((expert[:20], ratings[:20]), (expert, ratings), SCALE, {}, None)
    assert automatable_share(*parts, Config(max_error_rate=0.05)).share is None
    loose = automatable_share(*parts, Config(max_error_rate=0.1))
    assert loose.share is not None and loose.max_error_rate == 0.1 and loose.error_bound < 0.1
