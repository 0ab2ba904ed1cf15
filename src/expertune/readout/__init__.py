"""Logistic regression on hidden states of the untuned base, fused with word counts (TF-IDF)."""
