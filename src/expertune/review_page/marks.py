"""TF-IDF on what has been rated so far: which records are the most informative, and which passages drive a label."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..predict.tfidf_features import WORDS_AND_SIGNS, word_tfidf
from ..stats.logistic import fit_lines

FEWEST_RATINGS = 8  # below that the order stays that of the start
MOST_TERMS = 20_000
MOST_MARKS = 6  # in one text: more would mark nothing
FEWEST_SHARE = 0.12  # of the strongest word: weaker ones are not marked
SPREAD = 40  # records at the start that are chosen to be unlike each other
RANDOM_TURN = 4  # every fourth record is drawn at random: what the model is wrongly sure of comes up too

Floats = NDArray[np.float64]
_TOKEN = re.compile(WORDS_AND_SIGNS)
_FIELD = re.compile(r"^[^\W\d_][\w /()-]{0,40}:(?=\s)", re.MULTILINE)


class Piece(NamedTuple):
    """A part of a text as the page shows it: `kind` is "mark", "field" (the name before a colon) or ""."""

    text: str
    kind: str


@dataclass(frozen=True)
class Features:
    """TF-IDF of all texts, made once. The first rows of `x_NV` are the items', the others those of `known`."""

    vectorizer: Any
    x_NV: Any
    items: int
    known: tuple[int, ...]


@dataclass(frozen=True)
class TextModel:
    """A logistic regression on TF-IDF. `weight_KV` has a row for each of `values`, centred over the labels."""

    vectorizer: Any
    values: tuple[int, ...]
    weight_KV: Floats
    unsure_N: Floats

    def driving(self, text: str, value: int) -> list[tuple[int, int]]:
        """Where the words are that speak most for a label: beginnings and ends, in their order."""
        if value not in self.values:
            return []
        terms, x_1V = self.vectorizer.vocabulary_, self.vectorizer.transform([text])
        gain_V = self.weight_KV[self.values.index(value)]
        tokens = [(found.start(), found.end(), found.group().lower()) for found in _TOKEN.finditer(text)]
        weight = [0.0] * len(tokens)
        found = dict(zip(x_1V.indices.tolist(), x_1V.data.tolist(), strict=True))
        for at, (_, _, word) in enumerate(tokens):
            weight[at] += _gain(terms.get(word), found, gain_V)
            if at + 1 < len(tokens) and (pair := _gain(terms.get(f"{word} {tokens[at + 1][2]}"), found, gain_V)):
                weight[at] += pair / 2
                weight[at + 1] += pair / 2
        words = [at for at, (_, _, word) in enumerate(tokens) if weight[at] > 0 and _reads_as_word(word)]
        best = sorted(words, key=lambda at: -weight[at])[:MOST_MARKS]
        kept = sorted(at for at in best if weight[at] >= FEWEST_SHARE * weight[best[0]])
        return _joined([tokens[at][:2] for at in kept], text)

    def likeliest(self, text: str) -> int:
        share_K = self.vectorizer.transform([text]) @ self.weight_KV.T
        return self.values[int(np.argmax(share_K))]


def _gain(term: int | None, found: Mapping[int, float], gain_V: Floats) -> float:
    return 0.0 if term is None or term not in found else found[term] * float(gain_V[term])


def _reads_as_word(token: str) -> bool:
    """No sign, number or single letter (but of a script that writes words with one): as marks they are noise."""
    return any(map(str.isalpha, token)) and (len(token) > 1 or not token.isascii())


def _joined(spans: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Neighbours with only a blank between them as one passage."""
    whole: list[tuple[int, int]] = []
    for start, end in spans:
        if whole and text[whole[-1][1] : start] == " ":
            whole[-1] = (whole[-1][0], end)
        else:
            whole.append((start, end))
    return whole


def make_features(texts: Sequence[str], known: Sequence[tuple[str, int]]) -> Features | None:
    """None for texts without any term."""
    vectorizer = word_tfidf(max_features=MOST_TERMS)
    try:
        x_NV = vectorizer.fit_transform([*texts, *(text for text, _ in known)])
    except ValueError:
        return None
    return Features(vectorizer, x_NV, len(texts), tuple(value for _, value in known))


def fit(features: Features, rated: Mapping[int, int]) -> TextModel | None:
    """Fit on the rated items (value by place) and on what was known; None for too few ratings or one label."""
    from scipy.special import softmax
    from sklearn.linear_model import LogisticRegression

    places = [*rated, *range(features.items, features.items + len(features.known))]
    truth = [*rated.values(), *features.known]
    if len(truth) < FEWEST_RATINGS or len(set(truth)) < 2:
        return None
    model: Any = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
    x_RV = features.x_NV[places]
    used = np.unique(x_RV.indices)  # the other terms' weights are 0 anyway, and thousands of them would take seconds
    weight_KU, intercept_K = fit_lines(model, x_RV[:, used], truth)
    weight_KV = np.zeros((len(model.classes_), features.x_NV.shape[1]))
    weight_KV[:, used] = weight_KU
    share_NK = np.sort(softmax(features.x_NV[: features.items] @ weight_KV.T + intercept_K, axis=1), axis=1)
    unsure_N = 1.0 - (share_NK[:, -1] - share_NK[:, -2])
    values = tuple(int(value) for value in model.classes_)
    return TextModel(features.vectorizer, values, weight_KV - weight_KV.mean(axis=0), unsure_N)


def first_order(features: Features, seed: int) -> list[int]:
    """Places of the items before there is a model: some that are unlike each other (farthest first), then at random."""
    x_NV, order = features.x_NV[: features.items], _shuffled(features.items, seed)
    chosen, nearest_N = [order[0]], np.full(features.items, -1.0)
    while len(chosen) < min(SPREAD, features.items):
        nearest_N = np.maximum(nearest_N, np.asarray((x_NV @ x_NV[chosen[-1]].T).todense()).ravel())
        nearest_N[chosen[-1]] = 2.0
        chosen.append(int(np.argmin(nearest_N)))
    taken = set(chosen)
    return [*chosen, *(place for place in order if place not in taken)]


def informative_order(model: TextModel, seed: int) -> list[int]:
    """Places of the items, the least sure first (smallest margin of two labels), every fourth one at random."""
    by_margin = iter(np.argsort(-model.unsure_N, kind="stable").tolist())
    at_random, taken, order = iter(_shuffled(len(model.unsure_N), seed)), set(), []
    while len(order) < len(model.unsure_N):
        source = at_random if len(order) % RANDOM_TURN == RANDOM_TURN - 1 else by_margin
        place = next(each for each in source if each not in taken)
        taken.add(place)
        order.append(place)
    return order


def _shuffled(count: int, seed: int) -> list[int]:
    places = list(range(count))
    random.Random(seed).shuffle(places)
    return places


def pieces(text: str, marks: Sequence[tuple[int, int]]) -> list[Piece]:
    """The text in parts: marked passages, and the names of its fields."""
    fields = [(*found.span(), "field") for found in _FIELD.finditer(text)]
    free = [(*span, "mark") for span in marks if not any(start < span[1] and span[0] < end for start, end, _ in fields)]
    found, at = [], 0
    for start, end, kind in sorted([*fields, *free]):
        found += [Piece(text[at:start], ""), Piece(text[start:end], kind)]
        at = end
    return [piece for piece in [*found, Piece(text[at:], "")] if piece.text]
