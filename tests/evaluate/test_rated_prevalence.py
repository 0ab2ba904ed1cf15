"""Prevalence corrected for the rater's errors: exact values, and the coverage of its interval."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.evaluate.compare import Evaluation, evaluate
from expertune.evaluate.rated_prevalence import WIDEST, rated_prevalence
from expertune.stats.intervals import wilson
from expertune.stats.misclassification import corrected_shares

BINARY = np.array([[0.9, 0.1], [0.15, 0.85]])  # true label by predicted label; apparent and true agree at 0.4
THREE = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])


def test_two_labels_are_rogan_and_gladens() -> None:
    specificity, sensitivity, apparent = 0.9, 0.8, 0.3
    counts = np.array([[90.0, 10.0], [20.0, 80.0]])
    rest, found = corrected_shares(counts, np.array([700.0, 300.0]), seed=1, confidence=0.95)
    expected = (apparent + specificity - 1) / (sensitivity + specificity - 1)
    assert found.value == pytest.approx(expected) and rest.value == pytest.approx(1 - expected)
    assert found.n == 1000 and found.interval.low < expected < found.interval.high
    assert rest.interval.low == pytest.approx(1 - found.interval.high)
    again = corrected_shares(counts, np.array([700.0, 300.0]), seed=1, confidence=0.95)
    assert again == [rest, found]


def test_three_labels_are_the_solution_of_the_confusion_matrix() -> None:
    true = np.array([0.2, 0.5, 0.3])
    found = corrected_shares(THREE * 1000, true @ THREE * 10_000, seed=1, confidence=0.9)
    assert [each.value for each in found] == pytest.approx(true.tolist())
    assert all(each.interval.confidence == 0.9 for each in found)


def test_fewer_predictions_than_errors_is_a_prevalence_of_zero() -> None:
    _, found = corrected_shares(
        np.array([[80.0, 20.0], [10.0, 90.0]]), np.array([950.0, 50.0]), seed=1, confidence=0.95
    )
    assert found.value == pytest.approx(0.0, abs=1e-4) and found.interval.low <= found.value <= found.interval.high


def test_a_rater_that_guesses_says_nothing() -> None:
    for counts in (np.array([[25.0, 25.0], [25.0, 25.0]]), np.array([[50.0, 0.0], [50.0, 0.0]])):
        for found in corrected_shares(counts, np.array([60.0, 40.0]), seed=1, confidence=0.95):
            assert found.interval.high - found.interval.low > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [0.03, 0.15, 0.6, 0.85])
def test_the_interval_of_two_labels_covers_and_the_uncorrected_one_does_not(prevalence: float) -> None:
    covered, uncorrected = coverage(BINARY, np.array([1 - prevalence, prevalence]), np.array([0.6, 0.4]), 200)
    assert covered.min() >= 0.93
    assert uncorrected.max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [(0.05, 0.15, 0.8), (0.7, 0.25, 0.05)])
def test_the_interval_of_three_labels_covers(prevalence: tuple[float, ...]) -> None:
    covered, uncorrected = coverage(THREE, np.array(prevalence), np.array([0.4, 0.35, 0.25]), 300)
    assert covered.min() >= 0.93
    assert uncorrected.min() < 0.5


def coverage(
    matrix_TP: np.ndarray, share_T: np.ndarray, of_test_T: np.ndarray, tested: int
) -> tuple[np.ndarray, np.ndarray]:
    """Share of 500 studies whose corrected, and whose plain, 95 % interval of each label contains the true share.

    The labels are as common in the new file as `share_T` says, in the test records as `of_test_T` does.
    """
    random = np.random.default_rng(11)
    corrected, plain = np.zeros(len(share_T)), np.zeros(len(share_T))
    for study in range(500):
        counts_TP = random.multinomial(random.multinomial(tested, of_test_T), matrix_TP).astype(np.float64)
        predicted_P = random.multinomial(random.multinomial(600, share_T), matrix_TP).sum(axis=0)
        found = corrected_shares(counts_TP, predicted_P.astype(np.float64), seed=study, confidence=0.95)
        for at, true in enumerate(share_T):
            corrected[at] += found[at].interval.low <= true <= found[at].interval.high
            apparent = wilson(int(predicted_P[at]), 600, 0.95).interval
            plain[at] += apparent.low <= true <= apparent.high
    return corrected / 500, plain / 500


# --- of a rated file ---


def evaluation(groups: dict[str, str] | None = None) -> Evaluation:
    """100 records of Match and of Does Not Match, of which 80 and 90 are right; Unknown never occurs."""
    expert = truth([0] * 100 + [1] * 100)
    predicted = rated([0] * 80 + [1] * 20 + [1] * 90 + [0] * 10)
    return evaluate("tuned", expert, predicted, SCALE, groups or {}, Config(bootstrap_resamples=100))


def test_of_a_file() -> None:
    found = rated_prevalence(evaluation(), Counter({"Match": 300, "Does Not Match": 700}), 1)
    assert found is not None and [each.label for each in found.labels] == ["Match", "Does Not Match"]
    match = found.labels[0]
    assert match.predicted == 0.3 and match.corrected.value == pytest.approx((0.3 + 0.9 - 1) / 0.7)
    assert found.line().startswith("Match 28.6 % [") and "predicted 30.0 %; Does Not Match 71.4 % [" in found.line()
    assert "like the 200 test records" in found.note


def test_records_of_one_patient_widen_the_interval() -> None:
    def width(found: Evaluation) -> float:
        table = rated_prevalence(found, {"Match": 300, "Does Not Match": 700}, 1)
        return table.labels[0].corrected.interval.high - table.labels[0].corrected.interval.low

    alike = {f"r{at}": str(at // 10) for at in range(200)}  # all ten records of a patient are right or wrong
    assert width(evaluation(alike)) > 1.5 * width(evaluation())


def test_what_cannot_be_corrected() -> None:
    assert rated_prevalence(evaluation(), {}, 1) is None
    found = rated_prevalence(evaluation(), {"Match": 3, "Unknown": 1}, 1)
    assert found is not None and found.labels == () and found.line() == ""
    assert found.note.endswith("too few test records (Unknown 0), 5 of each label are needed")


def small(tested: int, right: float) -> Evaluation:
    """Two labels, equally common; so many test records, of which this share is right."""
    half = tested // 2
    hits = round(half * right)
    expert = truth([0] * half + [1] * half)
    predicted = rated([0] * hits + [1] * (half - hits) + [1] * hits + [0] * (half - hits))
    return evaluate("tuned", expert, predicted, SCALE, {}, Config(bootstrap_resamples=100))


def test_a_test_part_that_is_too_small_says_from_when_it_is_not() -> None:
    predicted = {"Match": 300, "Does Not Match": 300}
    found = rated_prevalence(small(20, 0.7), predicted, 1)
    assert found is not None and found.labels == ()
    match = re.fullmatch(
        r"prevalence is not corrected for the rater's errors: with 20 test records nearly every share of a label is "
        r"possible; about (\d+) would be enough \(by default every fifth expert-rated record is a test record\)",
        found.note,
    )
    assert match is not None
    enough = int(match[1])
    assert enough > 20
    again = rated_prevalence(small(enough, 0.7), predicted, 1)
    assert again is not None and len(again.labels) == 2
    assert all(each.corrected.interval.high - each.corrected.interval.low <= WIDEST for each in again.labels)


def test_more_test_records_do_not_help_a_rater_that_guesses() -> None:
    found = rated_prevalence(small(60, 0.5), {"Match": 300, "Does Not Match": 300}, 1)
    assert found is not None and found.labels == ()
    assert found.note.endswith(
        "with 32 times as many test records too; the rater errs too often, or too few records were rated"
    )
