"""The engine and the files of a running Ollama server."""
