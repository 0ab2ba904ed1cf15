"""TF-IDF features of texts, defined once for the baseline, the model set's classifier and the choice of examples."""

from __future__ import annotations

from typing import Any

WORDS_AND_SIGNS = r"\w+|[^\w\s]"  # single letters and signs count as words, so that no prompt is without a feature


def word_tfidf(*, token_pattern: str = WORDS_AND_SIGNS, **options: Any) -> Any:
    """A TfidfVectorizer of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), token_pattern=token_pattern, sublinear_tf=True, **options)


def letter_tfidf(**options: Any) -> Any:
    """A TfidfVectorizer of groups of three to five letters inside words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, **options)
