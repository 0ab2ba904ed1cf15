"""Merge the adapter into the base GGUF and choose the types of the changed tensors."""
