"""Learning curve of TF-IDF with logistic regression, the features and settings of the report's "TF-IDF".

A logistic regression with a ridge penalty needs no more of the features than their inner products: they are computed
once for all texts (so a term's weight is that in all texts, rated or not), and each fit has as many dimensions as
records instead of 100,000. That is ten times as fast and the same classifier.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..machine import one_thread
from ..predict.tfidf_features import letter_tfidf, word_tfidf
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.learning_curve import FEWEST_GROUPS, FEWEST_RECORDS, Indices, LearningCurve, learning_curve
from ..stats.metrics import Floats

MOST_RECORDS = 2000  # the time grows with the square of the records, and with more the curve is hardly needed
NO_CURVE = (
    f"no learning curve: it takes {FEWEST_RECORDS} to {MOST_RECORDS:,} records in at least {FEWEST_GROUPS} groups "
    "(patients, repeated texts)"
)
_RIDGE = 1e-9  # repeated texts have the same inner products


def tfidf_curve(
    rows: Sequence[Rating], scale: RatingScale, groups: Mapping[str, Hashable], config: Config
) -> LearningCurve | None:
    """Cross-validate TF-IDF on shares of the rated `rows`; None where they are too few or more than MOST_RECORDS."""
    if not 0 < len(rows) <= MOST_RECORDS:
        return None
    label_N = np.array([scale.values.index(row.value) for row in rows], dtype=np.intp)
    inner_NN = _inner_products([row.prompt for row in rows])

    def predict(known: Indices, out: Indices) -> Floats:
        return _rated(inner_NN, known, out, label_N[known], len(scale.labels))

    return learning_curve(
        "TF-IDF",
        predict,
        label_N.tolist(),
        len(scale.labels),
        [groups.get(row.id, row.id) for row in rows],
        seed=config.seed,
        count=config.bootstrap_resamples,
        confidence=config.confidence_level,
    )


def _inner_products(texts: Sequence[str]) -> Floats:
    inner_NN = np.zeros((len(texts), len(texts)))
    for make in (word_tfidf, letter_tfidf):
        features = make().fit_transform(texts)
        inner_NN += (features @ features.T).toarray()
    return inner_NN


def _rated(inner_NN: Floats, known: Indices, out: Indices, label_M: Indices, labels: int) -> Floats:
    """Fit a class-balanced logistic regression and rate."""
    from scipy.linalg import cholesky, solve_triangular
    from sklearn.linear_model import LogisticRegression

    known_MM = cholesky(inner_NN[np.ix_(known, known)] + _RIDGE * np.eye(len(known)), lower=True)
    rated_XM = solve_triangular(known_MM, inner_NN[np.ix_(known, out)], lower=True).T
    model: Any = LogisticRegression(class_weight="balanced", max_iter=2000)
    with one_thread():
        model.fit(known_MM, label_M)
    share_XK = np.zeros((len(out), labels))
    share_XK[:, model.classes_] = model.predict_proba(rated_XM)
    return share_XK
