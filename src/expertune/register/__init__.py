"""Register a tuned model with Ollama after the quality gate, and verify it in the server."""
