"""Expertune: tune the GGUF that Ollama already holds on an expert's ratings, and prove the finished file."""

__version__ = "0.1.0"
