"""An Ollama server for tests: recorded answers, a real models folder, real generations by the embedded engine."""
