"""TF-IDF with a logistic regression, as tables for a JSON file: rates without a language model.

Stored as vocabulary, weights and intercepts, never as a pickle: nothing in the file is run when it is read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..predict.tfidf_features import letter_tfidf, word_tfidf
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.folds import FOLDS, group_folds
from ..stats.logistic import fit_lines
from .records import TermTable, TfidfTables

MOST_TERMS = 20_000  # words and pairs, and as many letter groups
FEWEST_ROWS = 10
NO_TERM = " "  # in no text as a term
ROWS_FOR_SHARED = 50  # from here on a term must occur in two rows: a term of one row may identify a patient

Floats = NDArray[np.float64]
Vectorizer = Callable[..., Any]
Lines = tuple[list[int], Floats, Floats]  # values of the labels, weights (labels, terms) and intercepts
VECTORIZERS: tuple[Vectorizer, Vectorizer] = (word_tfidf, letter_tfidf)


@dataclass(frozen=True)
class TfidfSettings:
    """Terms of each kind at most, C of scikit-learn's logistic regression, and whether groups of letters count too.

    With `naive_bayes` each label has a regression of its own against the rest, in which a term counts as much as naive
    Bayes would have it (NB-SVM; Wang and Manning 2012, https://aclanthology.org/P12-2018): by the sums of its TF-IDF
    values in the records of the label and of the rest, or by its "presence" in so many of them.
    """

    most_terms: int = MOST_TERMS
    inverse_regularisation: float = 1.0
    letters: bool = True
    naive_bayes: Literal["", "sums", "presence"] = ""


def fit_tfidf(
    train: Sequence[Rating], scale: RatingScale, *, seed: int, how: TfidfSettings = TfidfSettings()
) -> TfidfTables | None:
    """The classifier's record; None for fewer than ten rows or two labels."""
    if len(train) < FEWEST_ROWS or len({row.value for row in train}) < 2:
        return None
    texts = [row.prompt for row in train]
    letters = _fitted(letter_tfidf, texts, how.most_terms) if how.letters else _without_terms(letter_tfidf, texts[:1])
    fitted = [_fitted(word_tfidf, texts, how.most_terms), letters]
    values = [row.value for row in train]
    features, model = _features(texts, fitted), _regression(how, seed)
    counted = {"": None, "sums": features, "presence": features > 0}[how.naive_bayes]
    lines = _lines(features, values, model) if counted is None else _naive_bayes_lines(features, values, model, counted)
    labels, weight_KV, intercept_K = lines
    return TfidfTables(
        labels=tuple(map(scale.label_of, labels)),
        intercepts=tuple(round(float(each), 6) for each in intercept_K),
        weights=packed(weight_KV),
        words=_table(fitted[0]),
        letters=_table(fitted[1]),
    )


def _regression(how: TfidfSettings, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    c = how.inverse_regularisation
    return LogisticRegression(C=c, class_weight="balanced", max_iter=1000, random_state=seed)


def _lines(features: Any, values: Sequence[int], model: Any) -> Lines:
    """One regression for all labels."""
    weight_KV, intercept_K = fit_lines(model, features, values)
    return [int(value) for value in model.classes_], weight_KV, intercept_K


def _naive_bayes_lines(features: Any, values: Sequence[int], model: Any, counted: Any) -> Lines:
    """A regression of each label against the rest, on the terms times the log ratios of how they are `counted`."""
    from scipy.sparse import diags

    labels, lines, value_N = sorted(set(values)), list[tuple[Floats, Floats]](), np.asarray(values)
    for label in labels:
        own_N = value_N == label
        count_SV = np.stack([1 + np.asarray(counted[part_N].sum(axis=0)).ravel() for part_N in (own_N, ~own_N)])
        ratio_V = np.subtract(*np.log(count_SV / count_SV.sum(axis=1, keepdims=True)))
        weight_SV, intercept_S = fit_lines(model, features @ diags(ratio_V), own_N)
        lines.append(((weight_SV[1] - weight_SV[0]) * ratio_V, intercept_S[1] - intercept_S[0]))
    weights, intercepts = zip(*lines, strict=True)
    return labels, np.stack(weights), np.asarray(intercepts)


def predict_tfidf(tables: TfidfTables, prompts: Sequence[str], labels: Sequence[str]) -> list[tuple[float, ...]]:
    """Probabilities of `labels` for each prompt; 0 for a label that the train rows did not hold."""
    return TfidfClassifier(tables, labels).predict(prompts) if prompts else []


class TfidfClassifier:
    """A fitted classifier, ready for many prompts; safe for several threads."""

    def __init__(self, tables: TfidfTables, labels: Sequence[str]) -> None:
        restored = zip(VECTORIZERS, (tables.words, tables.letters), strict=True)
        self._fitted = [_restored(vectorizer, table) for vectorizer, table in restored]
        self._weight_KV = unpacked(tables.weights).reshape(len(tables.labels), -1)
        self._intercept_K = np.asarray(tables.intercepts)
        at = {label: place for place, label in enumerate(tables.labels)}
        self._places = [at.get(label) for label in labels]

    def predict(self, prompts: Sequence[str]) -> list[tuple[float, ...]]:
        """As `predict_tfidf`; at least one prompt."""
        from scipy.special import softmax

        share_NK = softmax(_features(prompts, self._fitted) @ self._weight_KV.T + self._intercept_K, axis=1)
        return [tuple(0.0 if at is None else float(shares[at]) for at in self._places) for shares in share_NK]


def out_of_fold(
    train: Sequence[Rating],
    scale: RatingScale,
    groups: Mapping[str, str],
    *,
    seed: int,
    how: TfidfSettings = TfidfSettings(),
) -> list[tuple[float, ...]]:
    """Each row's probabilities by a classifier that saw no row of its group; [] where that cannot be learnt."""
    fold_N = group_folds([groups.get(row.id, row.id) for row in train], seed)
    found: list[tuple[float, ...]] = [()] * len(train)
    for fold in range(FOLDS):
        rest = [row for row, own in zip(train, fold_N, strict=True) if own != fold]
        tables = fit_tfidf(rest, scale, seed=seed, how=how)
        if tables is None:
            return []
        places = [int(at) for at in np.flatnonzero(fold_N == fold)]
        own = predict_tfidf(tables, [train[at].prompt for at in places], scale.labels)
        for at, shares in zip(places, own, strict=True):
            found[at] = shares
    return found


def _fitted(vectorizer: Vectorizer, texts: Sequence[str], most_terms: int) -> Any:
    for rows in (2, 1) if len(texts) >= ROWS_FOR_SHARED else (1,):
        made = vectorizer(max_features=most_terms, min_df=rows)
        try:
            return made.fit(texts)
        except ValueError:  # no term is in two rows, or no text has one
            continue
    return _without_terms(vectorizer, texts)


def _without_terms(vectorizer: Vectorizer, texts: Sequence[str]) -> Any:
    return vectorizer(vocabulary=[NO_TERM]).fit(texts)


def _features(texts: Sequence[str], fitted: Sequence[Any]) -> Any:
    from scipy.sparse import hstack

    return hstack([each.transform(texts) for each in fitted]).tocsr()


def _table(fitted: Any) -> TermTable:
    """A line for each term: neither kind of term can hold the sign that ends a line."""
    return TermTable(terms="\n".join(fitted.get_feature_names_out()), idf=packed(fitted.idf_))


def _restored(vectorizer: Vectorizer, table: TermTable) -> Any:
    made = vectorizer(vocabulary=table.terms.split("\n"))
    made.idf_ = unpacked(table.idf)
    return made


def packed(numbers: Any) -> str:
    """Base64 of little-endian 32-bit floats."""
    return base64.b64encode(np.ascontiguousarray(numbers, dtype="<f4").tobytes()).decode("ascii")


def unpacked(text: str) -> Floats:
    """Raises ValueError for what is not base64 of such numbers."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
