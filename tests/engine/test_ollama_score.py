"""Scores from a server's alternatives, with a made-up server: which requests are sent, and what is summed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.engine.ollama.score import GeneratedToken, PartOfCharacterError, Spelling, score

PIECES = [b"<p>", b'{"r": "', b"yes", b"no", b"t", b'"', b"\xe7", b"\xac"]  # a token's number is its place
ANSWERS = ['{"r": "yes"', '{"r": "no"', '{"r": "not"']
SPELLED = [[1, 2, 5], [1, 3, 5], [1, 3, 4, 5]]
LOG_PROBS = {"": {"yes": -0.2, "no": -2.0}, "yes": {'"': -0.1}, "no": {'"': -0.7, "t": -0.9}, "not": {'"': -0.3}}
EXPECTED = (-0.2 - 0.1, -2.0 - 0.7, -2.0 - 0.9 - 0.3)


def tokenize(text: str) -> list[int]:
    tokens: list[int] = []
    while text:
        token, piece = max(
            ((i, each.decode()) for i, each in enumerate(PIECES[:6]) if text.startswith(each.decode())),
            key=lambda found: len(found[1]),
        )
        tokens, text = [*tokens, token], text[len(piece) :]
    return tokens


SPELLING = Spelling([0], [[(token, PIECES[token]) for token in answer] for answer in SPELLED], tokenize)


class Server:
    """Says the likeliest label; lists all alternatives but those of `hidden`; obeys an `enum`."""

    def __init__(self, *hidden: str, model: Mapping[str, Mapping[str, float]] = LOG_PROBS) -> None:
        self.hidden, self.model = hidden, model
        self.asked: list[tuple[str, int, bool]] = []

    def __call__(self, prompt: str, room: int, schema: Mapping[str, Any] | None) -> list[GeneratedToken]:
        self.asked.append((prompt, room, schema is not None))
        path = prompt.removeprefix('<p>{"r": "')
        if schema is not None and "enum" in str(schema):
            return self._obeyed(prompt, schema)
        found = []
        while path in self.model and len(found) < room:
            place = self.model[path]
            best = max(place, key=lambda each: place[each])
            listed = {each.encode(): x for each, x in place.items() if each not in self.hidden or each == best}
            found.append(GeneratedToken(best.encode(), place[best], listed))
            path += best
        return found

    def _obeyed(self, prompt: str, schema: Mapping[str, Any]) -> list[GeneratedToken]:
        if schema["type"] == "string":  # the label alone, in one token that is not the model's own
            (label,) = schema["enum"]
            return [GeneratedToken(f'"{label}"'.encode(), -float(len(label)), {})]
        return []  # of the whole object it makes nothing


def test_three_labels_take_three_requests() -> None:
    server = Server()
    assert score(server, "<p>", ANSWERS, SPELLING).log_probs == pytest.approx(EXPECTED)
    assert [(prompt.removeprefix('<p>{"r": "'), room) for prompt, room, _ in server.asked] == [
        ("", 2),
        ("no", 1),
        ("not", 1),
    ]


def test_without_the_tokens_each_place_is_asked_once() -> None:
    server = Server()
    found = score(server, "<p>", ANSWERS, None)
    assert found.exact and found.log_probs == pytest.approx(EXPECTED)
    assert len(server.asked) == len({prompt for prompt, _, _ in server.asked}) == 4


BOTH = pytest.mark.parametrize("spelling", [SPELLING, None], ids=["spelled", "bare"])


def with_rest(**first: float) -> dict[str, dict[str, float]]:
    """LOG_PROBS with another first place, and with a token of no label among the alternatives of each."""
    return {path: {**place, "?": -9.0} for path, place in {**LOG_PROBS, "": first}.items()}


@BOTH
def test_a_hidden_token_is_no_likelier_than_those_that_are_shown(spelling: Spelling | None) -> None:
    found = score(Server("t", model=with_rest(yes=-0.2, no=-2.0)), "<p>", ANSWERS, spelling)
    assert found.exact  # e^-11 of 1: less than a thousandth
    assert found.log_probs == pytest.approx((EXPECTED[0], EXPECTED[1], -2.0 - 9.0))


@BOTH
def test_a_model_that_is_sure_is_asked_nothing_by_grammar(spelling: Spelling | None) -> None:
    server = Server("no", model=with_rest(yes=-0.001, no=-12.0))
    found = score(server, "<p>", ANSWERS, spelling)
    assert found.exact and found.log_probs == pytest.approx((-0.001 - 0.1, -9.0, -9.0))
    assert not any(by_grammar for *_, by_grammar in server.asked)


@BOTH
def test_a_hidden_label_that_may_have_a_share_makes_the_scores_inexact(spelling: Spelling | None) -> None:
    found = score(
        Server("no", model={**with_rest(yes=-0.2, no=-4.0), "": {"yes": -0.2, "?": -3.0}}), "<p>", ANSWERS, spelling
    )
    assert not found.exact and found.log_probs == pytest.approx((EXPECTED[0], -3.0, -3.0))


@BOTH
def test_where_no_label_is_known_to_be_likelier_all_are_compared_by_grammar(spelling: Spelling | None) -> None:
    model = {"": {"?": -0.1, "yes": -3.0, "no": -2.5}, **{path: place for path, place in LOG_PROBS.items() if path}}
    found = score(Server("yes", "no", model=model), "<p>", ANSWERS, spelling)
    assert not found.exact and found.log_probs == (-3.0, -2.0, -3.0)


class GrammarAsked(Exception):
    """All alternatives together tell no likeliest label."""


TOKENS = {"": ["yes", "no", "?", "!", "."], "yes": ['"', "?", "!"], "no": ['"', "t", "?", "!"], "not": ['"', "?", "!"]}
LOGIT = st.floats(-12, 0)
MODEL = st.fixed_dictionaries(
    {path: st.fixed_dictionaries(dict.fromkeys(tokens, LOGIT)) for path, tokens in TOKENS.items()}
)


@BOTH
@given(model=MODEL, listed=st.integers(1, 4))
def test_what_is_hidden_never_changes_the_likeliest_label(
    spelling: Spelling | None, model: dict[str, dict[str, float]], listed: int
) -> None:
    """Against a model that is known whole, of which a server lists the likeliest tokens only."""
    places = {path: normalised(logits) for path, logits in model.items()}

    def ask(prompt: str, room: int, schema: Mapping[str, Any] | None) -> list[GeneratedToken]:
        if schema is not None:
            if schema["type"] == "string":  # a label alone
                raise GrammarAsked
            return []  # the whole answer, in tokens that are not the model's own
        path, found = prompt.removeprefix('<p>{"r": "'), []
        while path in places and len(found) < room:
            ranked = sorted(places[path].items(), key=lambda each: -each[1])[:listed]
            found.append(GeneratedToken(ranked[0][0].encode(), ranked[0][1], {t.encode(): x for t, x in ranked}))
            path += ranked[0][0]
        return found

    true = [
        places[""]["yes"] + places["yes"]['"'],
        places[""]["no"] + places["no"]['"'],
        places[""]["no"] + places["no"]["t"] + places["not"]['"'],
    ]
    try:
        found = score(ask, "<p>", ANSWERS, spelling)
    except GrammarAsked:
        return
    assert all(mine >= own - 1e-9 for mine, own in zip(found.log_probs, true, strict=True))
    assert max(true) == pytest.approx(true[found.log_probs.index(max(found.log_probs))])
    if found.exact:
        shares, expected = (np.exp(each - np.logaddexp.reduce(each)) for each in (found.log_probs, true))
        assert np.abs(shares - expected).max() < 2e-3


def normalised(logits: Mapping[str, float]) -> dict[str, float]:
    total = np.logaddexp.reduce(list(logits.values()))
    return {token: float(logit - total) for token, logit in logits.items()}


def test_a_part_of_a_character_is_refused_before_anything_is_asked() -> None:
    cut = Spelling([0], [[(1, PIECES[1]), (6, PIECES[6]), (7, PIECES[7])], [(1, PIECES[1]), (2, PIECES[2])]], tokenize)
    server = Server()
    with pytest.raises(PartOfCharacterError):
        score(server, "<p>", ANSWERS[:2], cut)
    assert server.asked == []


def test_a_model_that_ends_its_turn_shows_its_alternatives_before_a_grammar() -> None:
    def ends(prompt: str, room: int, schema: Mapping[str, Any] | None) -> list[GeneratedToken]:
        asked.append(schema is not None)
        return Server()(prompt, room, schema) if schema else []

    asked: list[bool] = []
    found = score(ends, "<p>", ANSWERS, SPELLING)
    assert found.exact and found.log_probs == pytest.approx(EXPECTED)
    assert asked == [False, True] * 4 and all(map(math.isfinite, found.log_probs))


def test_codes_take_one_request_for_one_place() -> None:
    """The answers share all but their last token: the alternatives there are the scores."""
    server = Server()
    codes, spelled = ['{"r": "yes', '{"r": "no'], [[1, 2], [1, 3]]
    spelling = Spelling([0], [[(token, PIECES[token]) for token in answer] for answer in spelled], tokenize)
    found = score(server, "<p>", codes, spelling)
    assert found.exact and found.log_probs == pytest.approx((-0.2, -2.0))
    assert server.asked == [('<p>{"r": "', 1, False)]
