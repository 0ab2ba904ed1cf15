"""One run: from the ratings to the registered model."""
