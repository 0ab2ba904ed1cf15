"""Batches, loss, loop and checkpoints."""
