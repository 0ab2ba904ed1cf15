"""One module per architecture: `model_config(file)` reads its hyperparameters. See docs/families.md.

The cited files are those of llama.cpp as of xllamacpp 2026.10.
"""
