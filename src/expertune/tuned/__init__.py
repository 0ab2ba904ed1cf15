"""The tuned model: train the adapter, write the merged file, and check it."""
