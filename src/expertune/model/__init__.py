"""The decoder over a GGUF's own blocks, with LoRA. torch begins here."""
