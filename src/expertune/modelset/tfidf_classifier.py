"""TF-IDF with a logistic regression, as tables for a JSON file: rates without a language model.

Stored as vocabulary, weights and intercepts, never as a pickle: nothing in the file is run when it is read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    """C of scikit-learn's logistic regression, and whether groups of letters count too.

    With `naive_bayes` each label has a regression of its own against the rest, in which a term counts as much as naive
    Bayes would have it (NB-SVM; Wang and Manning 2012, https://aclanthology.org/P12-2018): by the sums of its TF-IDF
    values in the records of the label and of the rest, or by its "presence" in so many of them.
    """

    inverse_regularisation: float = 1.0
    letters: bool = True
    naive_bayes: Literal["", "sums", "presence"] = ""


class _Terms:
    """The terms of training texts, counted once however many classifiers learn from them: the fitted vectorizer of each
    kind, and its TF-IDF values (texts, terms)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    @cached_property
    def words(self) -> tuple[Any, Any]:
        return _counted(word_tfidf, self._texts)

    @cached_property
    def letters(self) -> tuple[Any, Any]:
        return _counted(letter_tfidf, self._texts)

    @cached_property
    def no_letters(self) -> tuple[Any, Any]:
        return _without_terms(letter_tfidf, self._texts)


def fit_tfidf(
    train: Sequence[Rating], scale: RatingScale, raters: Mapping[str, TfidfSettings], *, seed: int
) -> dict[str, TfidfTables] | None:
    """The record of each classifier by name; None for fewer than ten rows or two labels."""
    if len(train) < FEWEST_ROWS or len({row.value for row in train}) < 2:
        return None
    terms, values = _Terms([row.prompt for row in train]), [row.value for row in train]
    return {name: _tables(terms, values, scale, how, seed) for name, how in raters.items()}


def _tables(terms: _Terms, values: Sequence[int], scale: RatingScale, how: TfidfSettings, seed: int) -> TfidfTables:
    from scipy.sparse import hstack

    (words, by_word), (letters, by_letters) = terms.words, terms.letters if how.letters else terms.no_letters
    features, model = hstack([by_word, by_letters]).tocsr(), _regression(how, seed)
    counted = {"": None, "sums": features, "presence": features > 0}[how.naive_bayes]
    lines = _lines(features, values, model) if counted is None else _naive_bayes_lines(features, values, model, counted)
    labels, weight_KV, intercept_K = lines
    return TfidfTables(
        labels=tuple(map(scale.label_of, labels)),
        intercepts=tuple(round(float(each), 6) for each in intercept_K),
        weights=packed(weight_KV),
        words=_table(words),
        letters=_table(letters),
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
        """Probabilities of the labels for each prompt, at least one; 0 for a label that no training row had."""
        from scipy.sparse import hstack
        from scipy.special import softmax

        features = hstack([each.transform(prompts) for each in self._fitted]).tocsr()
        share_NK = softmax(features @ self._weight_KV.T + self._intercept_K, axis=1)
        return [tuple(0.0 if at is None else float(shares[at]) for at in self._places) for shares in share_NK]


def out_of_fold(
    train: Sequence[Rating],
    scale: RatingScale,
    groups: Mapping[str, str],
    raters: Mapping[str, TfidfSettings],
    *,
    seed: int,
) -> dict[str, Floats] | None:
    """Each row's probabilities (N, K) by classifiers that saw no row of its group; None where that cannot be learnt."""
    fold_N = group_folds([groups.get(row.id, row.id) for row in train], seed)
    found = {name: np.zeros((len(train), len(scale.labels))) for name in raters}
    for fold in range(FOLDS):
        rest = [row for row, own in zip(train, fold_N, strict=True) if own != fold]
        tables = fit_tfidf(rest, scale, raters, seed=seed)
        if tables is None:
            return None
        prompts = [row.prompt for row, own in zip(train, fold_N, strict=True) if own == fold]
        for name, each in tables.items() if prompts else ():
            found[name][fold_N == fold] = TfidfClassifier(each, scale.labels).predict(prompts)
    return found


def _counted(vectorizer: Vectorizer, texts: Sequence[str]) -> tuple[Any, Any]:
    for rows in (2, 1) if len(texts) >= ROWS_FOR_SHARED else (1,):
        made = vectorizer(max_features=MOST_TERMS, min_df=rows)
        try:
            return made, made.fit_transform(texts)
        except ValueError:  # no term is in two rows, or no text has one
            continue
    return _without_terms(vectorizer, texts)


def _without_terms(vectorizer: Vectorizer, texts: Sequence[str]) -> tuple[Any, Any]:
    from scipy.sparse import csr_matrix

    return vectorizer(vocabulary=[NO_TERM]).fit(texts[:1]), csr_matrix((len(texts), 1))


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
