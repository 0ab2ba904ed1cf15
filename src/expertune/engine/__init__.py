"""Who serves a model: render, tokenize, score, generate, close."""
