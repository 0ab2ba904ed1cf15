"""A finished file becomes a model in Ollama: only if it passed, only whole, and proven in the server itself."""
