"""The embedded engine: llama.cpp's server inside a child process."""
