"""The stages of a run, from the ratings to the registered model."""
