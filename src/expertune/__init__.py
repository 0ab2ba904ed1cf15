"""Expertune: tune a local GGUF model on an expert's ratings and evaluate it on records kept back for testing."""

__version__ = "0.1.0"
