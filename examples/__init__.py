"""Example data, the example model, and the way to two real models."""
