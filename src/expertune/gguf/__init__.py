"""The GGUF file format: read, dequantise, quantise, write. numpy only."""
