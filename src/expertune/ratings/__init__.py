"""Read, audit and split expert ratings, and turn them into chat examples. Never imports torch."""
