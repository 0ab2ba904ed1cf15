from __future__ import annotations

import random
from dataclasses import replace

import pytest

from evaluate.samples import SCALE, truth
from expertune.errors import UsageError
from expertune.evaluate.baselines import majority, tfidf

WORDS = ("cough fever wheeze sputum", "ankle sprain fracture fall", "see chart note pending")


def visits(count: int, seed: int, start: int = 0):
    source = random.Random(seed)
    labels = [source.choices(range(3), (5, 3, 2))[0] for _ in range(count)]
    prompts = [
        f"Rate this visit. Age {source.randint(1, 99)} complaint {source.choice(WORDS[label].split())} "
        f"{source.choice(WORDS[source.randrange(3)].split())}"
        for label in labels
    ]
    return [replace(row, id=f"r{start + at}") for at, row in enumerate(truth(labels, prompts=prompts))]


def right(rows, found) -> float:
    return sum(row.value == each.value for row, each in zip(rows, found, strict=True)) / len(rows)


def test_tfidf_beats_the_majority() -> None:
    train, test = visits(120, 1), visits(80, 2, start=1000)
    found, dull = tfidf(train, test, SCALE, 0), majority(train, test, SCALE)
    assert right(test, found) > right(test, dull) + 0.15
    assert [each.id for each in found] == [row.id for row in test]
    for each in found:
        assert sum(each.probabilities) == pytest.approx(1.0)
        assert each.label == SCALE.labels[each.probabilities.index(max(each.probabilities))]
    assert found == tfidf(train, test, SCALE, 0)


def test_test_rows_teach_nothing() -> None:
    """A rating depends on its own row and the training rows alone: not on the other rows, nor on any test label."""
    train, test = visits(60, 3), visits(20, 4, start=1000)
    together = tfidf(train, test, SCALE, 0)
    relabelled = [replace(row, value=0, label="Does Not Match") for row in test]
    assert tfidf(train, relabelled, SCALE, 0) == together
    for row, each in zip(test, together, strict=True):
        assert tfidf(train, [row], SCALE, 0)[0].probabilities == pytest.approx(each.probabilities)


def test_majority_gives_the_training_shares() -> None:
    found = majority(truth([1, 1, 0, 1]), visits(2, 5), SCALE)
    assert {(each.label, each.probabilities) for each in found} == {("Does Not Match", (0.25, 0.75, 0.0))}


def test_one_label_in_training_and_a_label_that_training_lacks() -> None:
    rows = visits(3, 6)
    assert tfidf(truth([2, 2]), rows, SCALE, 0) == majority(truth([2, 2]), rows, SCALE)
    assert all(each.probabilities[2] == 0.0 for each in tfidf(truth([0, 1, 0, 1]), rows, SCALE, 0))


@pytest.mark.parametrize("prompts", [["?", "!"], ["咳嗽发热", "脚踝扭伤"], ["a", "b"], ["x" * 50_000, "y"]])
def test_any_text_has_features(prompts: list[str]) -> None:
    train = truth([0, 1], prompts=prompts)
    assert [each.value for each in tfidf(train, train, SCALE, 0)] == [1, 0]


def test_nothing_to_learn_from_or_to_rate() -> None:
    with pytest.raises(UsageError, match="no training records"):
        tfidf([], visits(1, 7), SCALE, 0)
    assert tfidf(visits(5, 8), [], SCALE, 0) == []
