"""TF-IDF with a logistic regression, small enough for model_set_config.json: rates without a language model.

Stored as vocabulary, weights and intercepts, never as a pickle: nothing in the file is run when it is read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..predict.score import Prediction, Scorer
from ..predict.tfidf_features import letter_tfidf, word_tfidf
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.folds import FOLDS, group_folds
from ..stats.logistic import fit_lines
from .records import TFIDF, TermTable, TfidfTables

MOST_TERMS = 2000  # words and pairs, and as many letter groups: about 100 kB for three labels
FEWEST_ROWS = 10
NO_TERM = " "  # in no text as a term
ROWS_FOR_SHARED = 50  # from here on a term must occur in two rows: a term of one row may identify a patient

Floats = NDArray[np.float64]
Vectorizer = Callable[..., Any]
VECTORIZERS: tuple[Vectorizer, Vectorizer] = (word_tfidf, letter_tfidf)


@dataclass(frozen=True)
class TfidfSettings:
    """Terms of each kind at most, C of scikit-learn's logistic regression, and whether groups of letters count too."""

    most_terms: int = MOST_TERMS
    inverse_regularisation: float = 1.0
    letters: bool = True


def fit_tfidf(
    train: Sequence[Rating], scale: RatingScale, *, seed: int, how: TfidfSettings = TfidfSettings()
) -> TfidfTables | None:
    """The classifier's record; None for fewer than ten rows or two labels."""
    from sklearn.linear_model import LogisticRegression

    if len(train) < FEWEST_ROWS or len({row.value for row in train}) < 2:
        return None
    texts = [row.prompt for row in train]
    letters = _fitted(letter_tfidf, texts, how.most_terms) if how.letters else _without_terms(letter_tfidf, texts[:1])
    fitted = [_fitted(word_tfidf, texts, how.most_terms), letters]
    features = _features(texts, fitted)
    model: Any = LogisticRegression(
        C=how.inverse_regularisation, class_weight="balanced", max_iter=1000, random_state=seed
    )
    weight_KV, intercept_K = fit_lines(model, features, [row.value for row in train])
    return TfidfTables(
        labels=tuple(scale.label_of(int(value)) for value in model.classes_),
        intercepts=tuple(round(float(each), 6) for each in intercept_K),
        weights=packed(weight_KV),
        words=_table(fitted[0]),
        letters=_table(fitted[1]),
    )


def predict_tfidf(tables: TfidfTables, prompts: Sequence[str], labels: Sequence[str]) -> list[tuple[float, ...]]:
    """Probabilities of `labels` for each prompt; 0 for a label that the train rows did not hold."""
    return TfidfClassifier(tables, labels).predict(prompts) if prompts else []


class TfidfClassifier(Scorer):
    """A fitted classifier, ready for many prompts; safe for several threads."""

    name, slots = TFIDF, 1

    def __init__(self, tables: TfidfTables, labels: Sequence[str]) -> None:
        restored = zip(VECTORIZERS, (tables.words, tables.letters), strict=True)
        self._fitted = [_restored(vectorizer, table) for vectorizer, table in restored]
        self._weight_KV = unpacked(tables.weights).reshape(len(tables.labels), -1)
        self._intercept_K = np.asarray(tables.intercepts)
        at = {label: place for place, label in enumerate(tables.labels)}
        self._places = [at.get(label) for label in labels]

    def render(self, record: str) -> str:
        return record

    def score(self, record: str) -> Prediction:
        return Prediction(self.predict([record])[0])

    def describe(self) -> Mapping[str, object]:
        return {"engine": self.name}

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


def soft_labels(dataset: Dataset, config: Config) -> dict[str, tuple[float, ...]]:
    """Probabilities for a training, by id: of the training records, out of fold, and of those without a rating."""
    train, scale, seed, soft = dataset.split.train, dataset.scale, config.seed, dict[str, tuple[float, ...]]()
    if config.soft_label_weight:
        found = out_of_fold(train, scale, dataset.split.groups, seed=seed)
        soft |= {row.id: shares for row, shares in zip(train, found, strict=False)}
    others = dataset.unlabelled.records if dataset.unlabelled else ()
    if others and (tables := fit_tfidf(train, scale, seed=seed)):
        found = predict_tfidf(tables, [each.prompt for each in others], scale.labels)
        soft |= {each.id: shares for each, shares in zip(others, found, strict=True)}
    return soft


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
