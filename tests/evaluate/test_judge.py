from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.samples import ORDINAL, SCALE, rated, truth
from expertune.config import Config
from expertune.errors import UsageError
from expertune.evaluate.compare import compare, evaluate, valid_json

CONFIG = Config(bootstrap_resamples=200)


def test_figures_by_hand() -> None:
    found = evaluate("tuned", truth([0, 0, 0, 1, 1, 2]), rated([0, 0, 1, 1, 2, 2]), SCALE, {}, CONFIG, 2.5)
    assert found.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))
    assert (found.rows, found.groups, found.rows_per_second) == (6, 6, 2.5)
    assert found.accuracy.value == pytest.approx(4 / 6)
    assert found.macro_f1.value == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    match = found.per_class[0]
    assert (match.label, match.value, match.support, match.predicted) == ("Match", 1, 3, 2)
    assert (match.sensitivity.value, match.specificity.value) == (pytest.approx(2 / 3), 1.0)
    assert (match.ppv.value, match.npv.value) == (1.0, pytest.approx(3 / 4))
    assert [match.sensitivity.n, match.specificity.n, match.ppv.n, match.npv.n] == [3, 3, 2, 4]
    assert found.calibration.expected_error == pytest.approx(abs(0.8 - 4 / 6))
    assert (found.json_validity, found.answer_agreement) == (None, None)
    assert found.log_loss.value == pytest.approx(-(4 * math.log(0.8) + 2 * math.log(0.1)) / 6)
    assert found.log_loss.interval is not None and found.log_loss.n == 6


def test_log_loss_counts_groups_not_rows() -> None:
    expert, model = truth([0, 1, 2, 0] * 5), rated([0, 1, 0, 0] * 5)
    groups = {row.id: at // 4 for at, row in enumerate(expert)}  # every group has the same rows
    alone, grouped = (evaluate("a", expert, model, SCALE, given, CONFIG).log_loss for given in ({}, groups))
    assert alone.value == pytest.approx(grouped.value)
    assert alone.interval is not None and grouped.interval is None


def test_weighted_kappa_on_an_ordinal_scale_only() -> None:
    from sklearn.metrics import cohen_kappa_score

    expert, model = [0, 1, 2, 2, 1, 0, 2], [0, 2, 2, 1, 1, 0, 0]
    plain = evaluate("a", truth(expert), rated(model), SCALE, {}, CONFIG)
    ordinal = evaluate("a", truth(expert, ORDINAL), rated(model, ORDINAL), ORDINAL, {}, CONFIG)
    assert plain.weighted_kappa is None and plain.ordinal_reason.startswith("not ordinal")
    assert ordinal.weighted_kappa is not None and ordinal.weighted_kappa.interval is not None
    assert ordinal.weighted_kappa.value == pytest.approx(cohen_kappa_score(expert, model, weights="quadratic"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_always_strict_json(pairs: list[tuple[int, int]]) -> None:
    found = evaluate("any", truth([t for t, _ in pairs]), rated([p for _, p in pairs]), SCALE, {}, CONFIG)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["rows"] == len(pairs)


def test_one_label_predicted_and_one_absent() -> None:
    found = evaluate("majority", truth([0, 0, 1]), rated([0, 0, 0]), SCALE, {}, CONFIG)
    assert found.macro_f1.value == pytest.approx((4 / 5 + 0) / 2)  # "Unknown" occurs nowhere and does not count
    absent = found.per_class[2]
    assert (absent.support, absent.predicted, absent.f1) == (0, 0, None)
    assert (absent.sensitivity.value, absent.ppv.value, absent.specificity.value) == (None, None, 1.0)
    assert found.per_class[1].ppv.value is None and found.kappa.value == 0.0


def test_only_one_label_anywhere() -> None:
    found = evaluate("one", truth([1, 1]), rated([1, 1]), SCALE, {}, CONFIG)
    assert (found.accuracy.value, found.macro_f1.value, found.kappa.value) == (1.0, 1.0, None)
    assert found.macro_f1.interval is None and found.accuracy.interval is not None


def test_order_of_the_rows_is_free() -> None:
    expert, model = truth([0, 1, 2, 1, 0]), rated([0, 1, 1, 1, 2])
    groups = {row.id: row.id for row in expert}
    shuffled = random.Random(1).sample(model, len(model))
    assert evaluate("a", expert, shuffled, SCALE, groups, CONFIG) == evaluate("a", expert, model, SCALE, groups, CONFIG)


def test_groups_are_counted() -> None:
    groups = {"r0": "anna", "r1": "anna"}
    assert evaluate("a", truth([0, 1, 1]), rated([0, 1, 0]), SCALE, groups, CONFIG).groups == 2


def test_free_answers() -> None:
    answers = [
        ('{"rating": "Match", "rationale": "x"}', 1),
        ("Rating: 0, Rationale: y", 0),
        ("no idea", None),
        ('{"rating": "Match"} and more', 1),
    ]
    model = [
        replace(each, answer=text, answer_value=value, answer_state="unparsable" if value is None else "rated")
        for each, (text, value) in zip(rated([0, 1, 2, 1]), answers, strict=True)
    ]
    found = evaluate("tuned", truth([0, 1, 2, 1]), model, SCALE, {}, CONFIG)
    assert found.json_validity is not None and found.answer_agreement is not None
    assert (found.json_validity.value, found.json_validity.n) == (0.25, 4)
    assert (found.answer_agreement.value, found.answer_agreement.n) == (pytest.approx(2 / 3), 3)


@pytest.mark.parametrize(
    "answer",
    [
        '{"rating": 1}',
        '{"rating": "match"}',
        "[]",
        '"Match"',
        "",
        "{" * 100_000,
        "[" * 100_000,
        '{"rating": ["Match"]}',
        '{"rating": "Match"',
        "NaN",
    ],
)
def test_no_valid_json(answer: str) -> None:
    assert not valid_json(answer, SCALE)


def test_rows_that_do_not_match() -> None:
    expert, model = truth([0, 1]), rated([0, 1])
    for rows in (model[:1], [*model, replace(model[0], id="stranger")], [model[0], model[0]]):
        with pytest.raises(UsageError, match="do not match by id"):
            evaluate("a", expert, rows, SCALE, {}, CONFIG)
    with pytest.raises(UsageError, match="no records to evaluate"):
        evaluate("a", [], [], SCALE, {}, CONFIG)


def test_a_rater_of_a_sample_is_compared_on_its_records() -> None:
    expert = truth([0, 1, 2] * 20)
    good, poor = rated([0, 1, 2] * 19 + [0, 0, 0]), rated([0, 0, 1] * 20)
    whole, sampled = compare(("tuned", good), {"base": poor, "few-shot": poor[9:39]}, expert, SCALE, {}, CONFIG)
    assert (whole.rows, sampled.rows) == (60, 30)
    same = [evaluate("x", expert[9:39], rows[9:39], SCALE, {}, CONFIG).macro_f1.value or 0.0 for rows in (good, poor)]
    assert sampled.value == pytest.approx(same[0] - same[1])
    with pytest.raises(UsageError, match="do not match by id"):  # the product must have rated every record
        compare(("tuned", good[1:]), {"base": poor}, expert, SCALE, {}, CONFIG)


def test_compare() -> None:
    expert = truth([0, 1, 2] * 20)
    good, poor = rated([0, 1, 2] * 19 + [0, 0, 0]), rated([0, 0, 1] * 20)
    better, same = compare(("tuned", good), {"base": poor, "twin": good}, expert, SCALE, {}, CONFIG)
    assert (better.first, better.second, better.rows) == ("tuned", "base", 60)
    figures = [evaluate("x", expert, rows, SCALE, {}, CONFIG).macro_f1.value or 0.0 for rows in (good, poor)]
    assert better.value == pytest.approx(figures[0] - figures[1]) and not better.includes_zero
    assert (same.value, same.interval, same.includes_zero) == (0.0, None, True)
    assert json.loads(json.dumps(asdict(better), allow_nan=False))["metric"] == "macro_f1"
