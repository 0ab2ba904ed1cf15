"""TF-IDF of the page: what it marks, and in which order it offers the records."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from expertune.review_page import marks
from review_page.pages import SCALE, page_of, rate_source, raw_file, truth


def learnt(count: int = 60, rated: int = 30) -> tuple[list[str], marks.Features, marks.TextModel]:
    words = {1: ["cough", "fever"], 0: ["ankle", "fall"], -1: ["dizzy", "tired"]}
    draw = random.Random(3)
    texts = [
        f"Complaint: {draw.choice(words[SCALE.values[i % 3]])} since {draw.randint(1, 9)} days" for i in range(count)
    ]
    features = marks.make_features(texts, ())
    assert features is not None
    model = marks.fit(features, {place: SCALE.values[place % 3] for place in range(rated)})
    assert model is not None
    return texts, features, model


def test_the_words_that_speak_for_a_label_are_marked() -> None:
    _, _, model = learnt()
    for text, value, words in (
        ("COUGH since 3 days, no fever", 1, {"COUGH", "fever"}),
        ("ankle twisted", 0, {"ankle"}),
        ("İstanbul: dizzy", -1, {"dizzy"}),  # a letter whose lower case is longer
    ):
        marked = " ".join(text[start:end] for start, end in model.driving(text, value))
        assert words <= set(marked.split()), text
        assert model.likeliest(text) == value
    assert model.driving("cough", 5) == [] and model.driving("", 1) == [] and model.driving("7 !", 1) == []


def test_a_text_in_parts_is_the_text() -> None:
    text = "Chief complaint: cough: bad\nAge: 30\nhttp: x\n\nTriage notes:\n12:30 fever"
    found = marks.pieces(text, [(17, 22), (0, 5)])
    assert "".join(piece.text for piece in found) == text
    assert [piece.text for piece in found if piece.kind == "mark"] == ["cough"]  # a mark in a field's name is left out
    assert [piece.text for piece in found if piece.kind == "field"] == [
        *("Chief complaint:", "Age:", "http:", "Triage notes:")
    ]


def test_nothing_is_learnt_of_too_little() -> None:
    texts, features, _ = learnt()
    assert marks.fit(features, dict.fromkeys(range(20), 1)) is None
    assert marks.fit(features, {0: 1, 1: 0}) is None
    assert marks.make_features(["", " "], ()) is None
    known = marks.make_features(texts[:5], [(text, truth_of(text)) for text in texts[5:]])
    assert known is not None and marks.fit(known, {}) is not None


def truth_of(text: str) -> int:
    return 1 if "cough" in text or "fever" in text else 0


def test_the_first_records_are_unlike_each_other() -> None:
    texts = ["same words again"] * 50 + ["one", "two", "three"]
    features = marks.make_features(texts, ())
    assert features is not None
    order = marks.first_order(features, 1)
    assert sorted(order) == list(range(53))
    assert {50, 51, 52} <= set(order[:4])


def test_the_least_sure_come_first_and_every_fourth_at_random() -> None:
    _, _, model = learnt(400, 30)
    order = marks.informative_order(model, 1)
    assert sorted(order) == list(range(400))
    chosen = [place for at, place in enumerate(order[:40]) if at % 4 != 3]
    others = [place for at, place in enumerate(order[:40]) if at % 4 == 3]
    ranked = np.argsort(-model.unsure_N, kind="stable").tolist()
    assert [place for place in ranked if place not in others][:30] == chosen
    assert model.unsure_N[chosen].min() >= np.median(model.unsure_N)


@pytest.mark.parametrize("labels", [2, 3])
def test_uncertainty_is_one_less_the_margin_of_the_two_likeliest(labels: int) -> None:
    texts, features, _ = learnt()
    rated = {place: SCALE.values[place % labels] for place in range(45)}
    model = marks.fit(features, rated)
    assert model is not None and model.unsure_N.shape == (60,)
    assert (model.unsure_N >= 0).all() and (model.unsure_N <= 1).all() and np.ptp(model.unsure_N) > 0
    assert {model.likeliest(texts[place]) for place in range(45)} <= set(rated.values())


def test_the_page_learns_in_the_background(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the page's packages are not installed (expertune[page])")
    import threading
    import time

    from review_page.pages import tab

    with page_of(rate_source(raw_file(tmp_path, 90)), tmp_path) as (session, client):
        threading.Thread(target=session.learn_forever, daemon=True).start()
        ana = tab(session, client, "Ana")
        for _ in range(30):
            ana.press(truth(ana.text))
        until = time.monotonic() + 60
        while session.model is None and time.monotonic() < until:
            time.sleep(0.05)
        assert session.model is not None and "<mark>" in ana.open().page
        assert len(session.finals()) == 30 and sorted(session.order) == sorted(session.items)
