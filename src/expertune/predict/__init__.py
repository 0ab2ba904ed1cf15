"""Predict the labels of records with a served model, and how far the predictions can be trusted."""
