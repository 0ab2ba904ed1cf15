"""Which tokens tell answers apart, and that their probabilities are summed over exactly those."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.engine.label_scoring import Walking, distinguishing, sum_log_probs
from expertune.errors import EngineError

WORDS = st.lists(st.integers(0, 3), max_size=4)
CLOSE, AFTER = 9, 8  # a token that no word holds, and what follows it


def test_the_shared_end_keeps_one_token():
    begin, tails = distinguishing([[5, 1, CLOSE, AFTER], [5, 2, 3, CLOSE, AFTER]])
    assert (begin, tails) == ([5], [[1, CLOSE], [2, 3, CLOSE]])


def test_a_label_that_begins_another_is_told_apart():
    begin, tails = distinguishing([[5, 1, CLOSE], [5, 1, 2, CLOSE]])
    assert (begin, tails) == ([5, 1], [[CLOSE], [2, CLOSE]])


def test_labels_that_begin_and_end_alike_keep_more_of_their_end():
    answers = [[1, CLOSE, AFTER], [1, 1, CLOSE, AFTER], [2, 1, CLOSE, AFTER]]
    assert distinguishing(answers) == ([], [[1, CLOSE], [1, 1, CLOSE], [2, 1, CLOSE]])


def test_nothing_closes_it():
    with pytest.raises(EngineError, match="beginning of another"):
        distinguishing([[5, 1], [5, 1, 2]])


def test_one_answer_has_no_rival():
    assert distinguishing([[5, 1], [5, 1]]) == ([5, 1], [[], []])
    assert distinguishing([]) == ([], [])


@given(st.lists(WORDS, min_size=2, max_size=5, unique_by=tuple), st.lists(st.integers(0, 3), max_size=3))
def test_tails_tell_apart_and_what_follows_is_alike(words: list[list[int]], shared: list[int]):
    answers = [[*shared, *word, CLOSE, AFTER] for word in words]
    begin, tails = distinguishing(answers)
    assert len({tuple(tail) for tail in tails}) == len(words)
    assert len({tuple(answer[len(begin) + len(tail) :]) for answer, tail in zip(answers, tails, strict=True)}) == 1
    for answer, tail in zip(answers, tails, strict=True):
        assert answer[: len(begin) + len(tail)] == [*begin, *tail]
        assert not any(other != tail and other[: len(tail)] == tail for other in tails)


def _log_prob(tokens: Sequence[int], token: int) -> float:
    """A made-up model: any fixed function of the path will do."""
    return -0.1 * token - 0.01 * len(tokens) * (1 + sum(tokens))


class Model:
    """A made-up model: its figures are any fixed function of the path, it likes to say `way`, and shows `free`."""

    def __init__(self, way: Sequence[int], free: set[int]) -> None:
        self.way, self.free = list(way), free
        self.looks: list[tuple[int, ...]] = []
        self.forced: list[tuple[tuple[int, ...], list[int]]] = []

    def look(self, path: Sequence[int], room: int) -> list[tuple[int, dict[int, float]]]:
        self.looks.append(tuple(path))
        said = []
        for _ in range(room):
            token = self.way[len(path)] if len(path) < len(self.way) else 0
            said.append((token, {each: _log_prob(path, each) for each in {token, *self.free}}))
            path = [*path, token]
        return said

    def force(self, path: Sequence[int], wanted: Sequence[int]) -> dict[int, float]:
        self.forced.append((tuple(path), [*wanted]))
        return {token: _log_prob(path, token) for token in wanted}


@given(st.lists(WORDS, min_size=1, max_size=6), st.sets(st.integers(0, 3)), WORDS)
def test_every_token_of_a_tail_is_counted_once(tails: list[list[int]], free: set[int], way: list[int]):
    model = Model(way, free)
    expected = [sum(_log_prob(tail[:i], token) for i, token in enumerate(tail)) for tail in tails]
    found = sum_log_probs(tails, model.look, model.force)
    assert found.log_probs == pytest.approx(expected)
    assert len(model.looks) == len(set(model.looks))
    places = [path for path, _ in model.forced]
    assert len(places) == len(set(places)), "all the tokens of a place in one question"
    assert found.questions == len(model.looks) + len(model.forced)
    assert sum_log_probs(tails, None, model.force).log_probs == pytest.approx(expected)


def test_a_model_that_keeps_to_the_answers_is_asked_once_for_each():
    model = Model([1], {1, 2, 3})  # after the first token it goes on with 0
    sum_log_probs([[1, 0, 0], [2, 0, 0], [3, 0, 0, 0]], model.look, model.force)
    assert model.looks == [(), (2,), (3,)] and model.forced == []


def test_answers_that_part_at_a_token_share_one_look():
    """A second look at the same tokens may differ in the last digits; the first one is kept."""
    model = Model([1], {1})
    assert sum_log_probs([[2], [1], [3]], model.look, model.force).log_probs == pytest.approx([-0.2, -0.1, -0.3])
    assert model.looks == [()] and model.forced == [((), [2, 3])]


def test_a_model_that_would_rather_end_is_made_to_say_it():
    model = Model([1], set())
    found = sum_log_probs([[2, 1]], lambda path, room: [], model.force)
    assert found.log_probs == pytest.approx([-0.2 + _log_prob([2], 1)])


def test_a_model_that_leaves_the_answers_walks_again_after_64_rows():
    tails = [[1, 2], [1, 3]]  # two places
    walking = Walking()
    assert walking.after_row(tails, 1) == walking
    allowed = []
    for _ in range(130):
        allowed.append(walking.allowed)
        walking = walking.after_row(tails, 2)
    assert [row for row, each in enumerate(allowed) if each] == [0, 64, 128]
