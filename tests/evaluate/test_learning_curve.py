"""Learning curves: the points are those of a plain cross-validation, and the gain is what a known law gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from evaluate.samples import truth
from expertune.config import Config
from expertune.evaluate import tfidf_curve as by_tfidf
from expertune.evaluate.tfidf_curve import tfidf_curve
from expertune.predict.tfidf_features import letter_tfidf, word_tfidf
from expertune.ratings.scale import make_scale
from expertune.stats.folds import group_folds
from expertune.stats.intervals import Interval
from expertune.stats.learning_curve import EXPONENTS, SHARES, LearningCurve, _gain, learning_curve
from expertune.stats.metrics import confusion, macro_f1


class Centres:
    """Rates by the nearest mean of the records that it learned from, and keeps which they were."""

    def __init__(self, x_NF: np.ndarray, label_N: np.ndarray, labels: int) -> None:
        self.x_NF, self.label_N, self.labels = x_NF, label_N, labels
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, known: np.ndarray, out: np.ndarray) -> np.ndarray:
        self.calls.append((known, out))
        far = np.full((len(out), self.labels), 1e3)
        for label in np.unique(self.label_N[known]):
            centre = self.x_NF[known][self.label_N[known] == label].mean(axis=0)
            far[:, label] = np.square(self.x_NF[out] - centre).sum(axis=1)
        share = np.exp(far.min(axis=1, keepdims=True) - far)
        return share / share.sum(axis=1, keepdims=True)


def study(records: int, seed: int, *, apart: float, features: int = 20, labels: int = 3) -> Centres:
    centre_KF = np.random.default_rng(7).standard_normal((labels, features)) * apart / features**0.5
    random = np.random.default_rng(seed)
    label_N = random.integers(0, labels, records)
    return Centres(centre_KF[label_N] + random.standard_normal((records, features)), label_N, labels)


def curve(of: Centres, seed: int = 0, groups: list[str] | None = None, count: int = 100) -> LearningCurve | None:
    own = groups or [str(at) for at in range(len(of.label_N))]
    return learning_curve("centres", of, of.label_N, of.labels, own, seed=seed, count=count, confidence=0.95)


def test_the_last_point_is_the_plain_cross_validation() -> None:
    of = study(200, 1, apart=3)
    found = curve(of, seed=4)
    assert found is not None and [each.records for each in found.points] == [40, 80, 120, 160]
    fold_N = group_folds([repr(str(at)) for at in range(200)], 4)
    predicted = np.zeros(200, dtype=int)
    for fold in range(5):
        out = np.flatnonzero(fold_N == fold)
        predicted[out] = of(np.flatnonzero(fold_N != fold), out).argmax(axis=1)
    expected = float(macro_f1(confusion(of.label_N.tolist(), predicted.tolist(), 3)))
    last = found.points[-1]
    assert last.macro_f1.value == pytest.approx(expected) and last.macro_f1.interval is not None
    assert last.macro_f1.interval.low < expected < last.macro_f1.interval.high
    assert found.points[0].macro_f1.value < expected and found.points[0].log_loss.value > last.log_loss.value


def test_no_group_is_divided_and_the_shares_are_nested() -> None:
    of = study(300, 2, apart=2)
    groups = [f"patient {at // 3}" for at in range(300)]
    assert curve(of, groups=groups) is not None
    group_N = np.array(groups)
    assert len(of.calls) == 5 * len(SHARES)
    for known, out in of.calls:
        assert not set(group_N[known]) & set(group_N[out])
        rest = np.setdiff1d(np.arange(300), known)
        assert not set(group_N[known]) & set(group_N[np.setdiff1d(rest, out)])
    for fold in range(5):
        sets = [set(of.calls[5 * share + fold][0].tolist()) for share in range(len(SHARES))]
        assert all(less < more for less, more in pairwise(sets))


@pytest.mark.parametrize("records", [49, 3 * 9])
def test_too_few_records_or_groups(records: int) -> None:
    assert curve(study(records, 1, apart=2)) is None
    assert curve(study(60, 1, apart=2), groups=[str(at % 9) for at in range(60)]) is None


def test_a_label_that_a_share_lacks_costs_no_infinite_log_loss() -> None:
    of = study(60, 1, apart=4)
    of.label_N[:] = 0
    of.label_N[:2] = 1
    found = curve(of)
    assert found is not None
    assert all(each.log_loss.value is not None and each.log_loss.value < 1 for each in found.points)


def law(records: np.ndarray, exponent: float) -> np.ndarray:
    return 0.2 + 0.1 * np.log(records) if exponent == 0 else 0.9 - 2 * records**-exponent


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_gain_follows_the_law_within_its_interval(exponent: float) -> None:
    records_P = np.array([50.0, 100.0, 150.0, 200.0])
    value_P = law(records_P, exponent)
    now, then = law(np.array([250.0, 350.0]), exponent)

    def interval(value: float, value_B: np.ndarray, ends: tuple[float, float]) -> Interval:
        assert ends == (-1.0, 1.0) and value_B == pytest.approx([value])
        return Interval(value - 1e-6, value + 1e-6, "none", 0.95)

    found = _gain(records_P, value_P, value_P[:, None], 250, interval)
    assert found is not None and (found.records, found.more, found.clear) == (250, 100, True)
    assert found.macro_f1.interval.low <= then - now <= found.macro_f1.interval.high
    if exponent == 0.5:
        assert found.macro_f1.value == pytest.approx(then - now)


def test_never_beyond_twice_the_records() -> None:
    found = curve(study(60, 3, apart=4))
    assert found is not None and found.gain is not None and found.gain.more == 60
    assert curve(study(150, 3, apart=4)).gain.more == 100


def test_a_rater_that_never_varies_has_no_gain() -> None:
    of = study(80, 1, apart=2)
    of.x_NF = np.eye(3)[of.label_N] * 100
    found = curve(of)
    assert found is not None and found.points[-1].macro_f1.value == 1.0 and found.gain is None
    assert "cannot be estimated" in found.line()


def gains(apart: float, studies: int) -> list[Any]:
    found = [curve(study(150, at, apart=apart, features=40), seed=at) for at in range(studies)]
    return [each.gain for each in found if each is not None and each.gain is not None]


def test_where_nothing_can_be_learned_there_is_no_clear_gain() -> None:
    found = gains(0.0, 60)
    assert len(found) == 60 and sum(each.clear for each in found) <= 5  # one side of a 95 % interval: 1.5 expected
    assert all(each.macro_f1.interval.low <= 0 for each in found if not each.clear)


def test_the_interval_of_the_gain_contains_the_true_one() -> None:
    def expected(records: int) -> float:
        values = []
        for seed in range(40):
            of = study(records + 1000, 1000 + seed, apart=2.5, features=40)
            out = np.arange(records, records + 1000)
            predicted = of(np.arange(records), out).argmax(axis=1)
            values.append(float(macro_f1(confusion(of.label_N[out].tolist(), predicted.tolist(), 3))))
        return float(np.mean(values))

    true = expected(250) - expected(150)
    found = gains(2.5, 60)
    assert true > 0.01 and sum(each.clear for each in found) >= 30
    held = sum(each.macro_f1.interval.low <= true <= each.macro_f1.interval.high for each in found)
    assert held >= 57  # 95 %


# --- TF-IDF ---

WORDS = ("cough fever wheeze", "fracture fall ankle", "rash itch skin")


def visits(count: int) -> list[Any]:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, count).tolist()
    other = " ".join(WORDS).split()
    texts = [
        " ".join([*random.choice(WORDS[label].split(), 2), *random.choice(other, 4), str(at)])
        for at, label in enumerate(labels)
    ]
    return truth(labels, prompts=texts)


def test_inner_products_give_the_classifier_of_the_features() -> None:
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression

    rows = visits(90)
    texts, label_N = [row.prompt for row in rows], np.array([row.value for row in rows])
    features = hstack([make().fit_transform(texts) for make in (word_tfidf, letter_tfidf)]).tocsr()
    known, out = np.arange(60), np.arange(60, 90)
    plain: Any = LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-8)
    expected = plain.fit(features[known], label_N[known]).predict_proba(features[out])
    at = {value: column for column, value in enumerate(plain.classes_)}
    index_N = np.array([at[value] for value in label_N])
    found = by_tfidf._rated(by_tfidf._inner_products(texts), known, out, index_N[known], 3)
    assert found == pytest.approx(expected, abs=2e-3)


def test_tfidf_learns_from_more_records() -> None:
    config = Config(bootstrap_resamples=200)
    scale = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
    found = tfidf_curve(visits(120), scale, {}, config)
    assert found is not None and found.rater == "TF-IDF"
    values = [each.macro_f1.value for each in found.points]
    assert values[0] < values[-1] and values[-1] > 0.6
    assert found == tfidf_curve(visits(120), scale, {}, config)
    assert tfidf_curve(visits(40), scale, {}, config) is None
    assert found.line().startswith("Learning curve (TF-IDF, cross-validated macro-F1): 0.")
