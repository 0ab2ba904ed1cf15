"""Expert ratings: read, audited, split, turned into chat examples. Never imports torch."""
