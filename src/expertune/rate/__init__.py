"""Rate rows with a served model."""
