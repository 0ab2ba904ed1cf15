"""Training: encoding, batches, loss, loop, evaluation and checkpoints."""
