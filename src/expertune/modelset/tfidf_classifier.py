"""TF-IDF and a logistic regression, small enough to lie in model_set_config.json: rates without a language model.

Stored as vocabulary, weights and intercepts, never as a pickle: nothing in the file is run when it is read.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ratings.scale import RatingScale
from ..ratings.schema import Rating

MOST_TERMS = 2000  # words and pairs, and as many letter groups: about 100 kB for three labels
FEWEST_ROWS = 10
ROWS_FOR_SHARED = 50  # from here on a term must stand in two rows: what stands in one tells little, but of one patient
FOLDS = 5

Floats = NDArray[np.float64]


def fit_tfidf(train: Sequence[Rating], scale: RatingScale, *, seed: int) -> dict[str, Any] | None:
    """The classifier's record (see `schema.Words`); None for fewer than ten rows or two labels."""
    from sklearn.linear_model import LogisticRegression

    if len(train) < FEWEST_ROWS or len({row.value for row in train}) < 2:
        return None
    texts = [row.prompt for row in train]
    fitted = [_fitted(way, texts) for way in ("words", "letters")]
    features = _features(texts, fitted)
    model: Any = LogisticRegression(class_weight="balanced", max_iter=1000, random_state=seed)
    model.fit(features, [row.value for row in train])
    weight_KV, intercept_K = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one line for the second label: the softmax of half of it either way is the same
        weight_KV, intercept_K = np.vstack([-weight_KV, weight_KV]) / 2, np.concatenate([-intercept_K, intercept_K]) / 2
    return {
        "labels": [scale.label_of(int(value)) for value in model.classes_],
        "intercepts": [round(float(each), 6) for each in intercept_K],
        "weights": _packed(weight_KV),
        "words": _table(fitted[0]),
        "letters": _table(fitted[1]),
    }


def predict_tfidf(record: Mapping[str, Any], prompts: Sequence[str], labels: Sequence[str]) -> list[tuple[float, ...]]:
    """Probabilities of `labels` for each prompt; 0 for a label that the train rows did not hold."""
    return TfidfClassifier(record, labels).rate(prompts) if prompts else []


class TfidfClassifier:
    """The classifier of a record, ready for many prompts; safe for several threads."""

    def __init__(self, record: Mapping[str, Any], labels: Sequence[str]) -> None:
        self._fitted = [_restored(way, record[way]) for way in ("words", "letters")]
        self._weight_KV = _unpacked(record["weights"]).reshape(len(record["labels"]), -1)
        self._intercept_K = np.asarray(record["intercepts"])
        at = {label: place for place, label in enumerate(record["labels"])}
        self._places = [at.get(label) for label in labels]

    def rate(self, prompts: Sequence[str]) -> list[tuple[float, ...]]:
        """As `rate_words`; at least one prompt."""
        score_NK = np.asarray(_features(prompts, self._fitted) @ self._weight_KV.T) + self._intercept_K
        share_NK = np.exp(score_NK - score_NK.max(axis=1, keepdims=True))
        share_NK /= share_NK.sum(axis=1, keepdims=True)
        return [tuple(0.0 if at is None else float(shares[at]) for at in self._places) for shares in share_NK]


def out_of_fold(
    train: Sequence[Rating], scale: RatingScale, groups: Mapping[str, str], *, seed: int
) -> list[tuple[float, ...]]:
    """Each row's probabilities by a classifier that saw no row of its group; [] where that cannot be learnt."""
    import random

    names = sorted({groups.get(row.id, row.id) for row in train})
    random.Random(seed).shuffle(names)
    fold_of = {name: at % FOLDS for at, name in enumerate(names)}
    folds = [fold_of[groups.get(row.id, row.id)] for row in train]
    found: list[tuple[float, ...]] = [()] * len(train)
    for fold in range(FOLDS):
        record = fit_tfidf([row for row, own in zip(train, folds, strict=True) if own != fold], scale, seed=seed)
        places = [at for at, own in enumerate(folds) if own == fold]
        if record is None:
            return []
        for at, shares in zip(
            places, predict_tfidf(record, [train[i].prompt for i in places], scale.labels), strict=True
        ):
            found[at] = shares
    return found


def _vectorizer(way: str, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # single letters and signs count as words, so that no prompt is ever without a feature
    form: dict[str, Any] = (
        {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
        if way == "words"
        else {"analyzer": "char_wb", "ngram_range": (3, 5)}
    )
    return TfidfVectorizer(sublinear_tf=True, **form, **options)


def _fitted(way: str, texts: Sequence[str]) -> Any:
    for rows in (2, 1) if len(texts) >= ROWS_FOR_SHARED else (1,):
        made = _vectorizer(way, max_features=MOST_TERMS, min_df=rows)
        try:
            return made.fit(texts)
        except ValueError:  # no term is in two rows, or no text has one
            continue
    return _vectorizer(way, vocabulary=[" "]).fit(texts)


def _features(texts: Sequence[str], fitted: Sequence[Any]) -> Any:
    from scipy.sparse import hstack

    return hstack([each.transform(texts) for each in fitted]).tocsr()


def _table(fitted: Any) -> dict[str, str]:
    """A line for each term: neither kind of term can hold the sign that ends a line."""
    return {"terms": "\n".join(fitted.get_feature_names_out()), "idf": _packed(fitted.idf_)}


def _restored(way: str, table: Mapping[str, str]) -> Any:
    made = _vectorizer(way, vocabulary=table["terms"].split("\n"))
    made.idf_ = _unpacked(table["idf"])
    return made


def _packed(numbers: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers, dtype="<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    """Raises ValueError for what is no base64 of such numbers."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
