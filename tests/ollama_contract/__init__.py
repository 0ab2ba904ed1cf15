"""A scripted Ollama server for tests: a real models folder, real generations by the embedded engine, faults."""
