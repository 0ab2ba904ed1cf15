"""The embedded engine: llama.cpp's server in this process."""
