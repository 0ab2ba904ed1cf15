"""Example dataset, example model, and download of two real models."""
