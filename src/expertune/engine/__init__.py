"""Engines that serve a model: render, tokenize, score, generate, close."""
