from __future__ import annotations

import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.errors import UsageError
from expertune.evaluate.compare import Difference, compare, evaluate
from expertune.evaluate.verdict import Verdict, outcome, verdict
from expertune.stats.intervals import Interval

CONFIG = Config(bootstrap_resamples=400)
EXPERT = [0, 1, 2, 0, 1, 0] * 10
MAJORITY = [0] * 60


def judged(tuned: list[int], base: list[int], tfidf: list[int]) -> Verdict:
    expert = truth(EXPERT)
    raters = {"tuned": rated(tuned), "base": rated(base), "TF-IDF": rated(tfidf), "majority": rated(MAJORITY)}
    figures = [evaluate(name, expert, rows, SCALE, {}, CONFIG) for name, rows in raters.items()]
    differences = compare(("tuned", raters.pop("tuned")), raters, expert, SCALE, {}, CONFIG)
    return verdict(*figures, differences)


def wrong(count: int) -> list[int]:
    """The expert's ratings with a fault in the first `count` rows."""
    return [(label + 1) % 3 if at < count else label for at, label in enumerate(EXPERT)]


def test_better() -> None:
    found = judged(wrong(3), wrong(40), wrong(30))
    assert (found.base, found.tfidf, found.majority) == ("better", "better", "better")
    assert found.line.startswith("The tuned model is better than the base model (+0.")
    assert "worse" not in found.line and "no clear difference" not in found.line
    assert "60 records kept back for testing" in found.line
    assert found.line.count("\n") == 0 and found.line.endswith(".")
    for name in ("tuned 0.9", "base 0.", "TF-IDF 0.", "majority 0."):
        assert name in found.line


def test_worse_where_the_interval_is_below_zero() -> None:
    found = judged(wrong(40), wrong(3), wrong(2))
    assert (found.base, found.tfidf) == ("not better", "not better")
    assert "is worse than the base model (-0." in found.line
    assert "is worse than a word-count classifier (TF-IDF) (-0." in found.line


def test_lower_by_chance_is_not_called_worse() -> None:
    found = judged(wrong(13), wrong(40), wrong(12))
    assert found.tfidf == "not better"
    assert "shows no clear difference from a word-count classifier (TF-IDF) (-0.0" in found.line
    assert "worse" not in found.line


def test_the_same_ratings_show_no_clear_difference() -> None:
    found = judged(wrong(5), wrong(5), wrong(50))
    assert "shows no clear difference from the base model (+0.000" in found.line and found.base == "not better"


def test_higher_by_chance_is_not_called_better() -> None:
    found = judged(wrong(12), wrong(40), wrong(13))
    assert (found.base, found.tfidf) == ("better", "unclear")
    assert "shows no clear difference from a word-count classifier (TF-IDF) (+0.0" in found.line


def test_a_classifier_without_a_language_model_is_called_so() -> None:
    expert = truth(EXPERT)
    raters = {"TF-IDF set": wrong(3), "base": wrong(40), "TF-IDF": wrong(4), "majority": MAJORITY}
    figures = [evaluate(name, expert, rated(labels), SCALE, {}, CONFIG) for name, labels in raters.items()]
    others = {name: rated(labels) for name, labels in raters.items() if name != "TF-IDF set"}
    differences = compare(("TF-IDF set", rated(wrong(3))), others, expert, SCALE, {}, CONFIG)
    found = verdict(*figures, differences)
    assert found.line.startswith("The pool of word-count classifiers (no language model) is better than the base model")
    assert "shows no clear difference from a word-count classifier (TF-IDF) (+0.0" in found.line
    assert (found.base, found.tfidf, found.majority) == ("better", "unclear", "better")


def test_outcomes() -> None:
    def difference(value: float, low: float, high: float) -> Difference:
        return Difference("a", "b", value, Interval(low, high, "bootstrap", 0.95), 10)

    assert outcome(difference(0.2, 0.1, 0.3)) == "better"
    assert outcome(difference(0.2, -0.1, 0.3)) == outcome(difference(0.2, 0.0, 0.3)) == "unclear"
    assert outcome(difference(-0.2, -0.3, -0.1)) == outcome(difference(0.0, -0.1, 0.1)) == "not better"
    assert outcome(Difference("a", "b", 1.0, None, 10)) == "unclear"


def test_a_comparison_that_is_missing() -> None:
    expert, model = truth([0, 1]), rated([0, 1])
    figures = [evaluate(name, expert, model, SCALE, {}, CONFIG) for name in ("tuned", "base", "TF-IDF", "majority")]
    with pytest.raises(UsageError, match="no comparison of tuned with base, TF-IDF, majority"):
        verdict(*figures, [])
