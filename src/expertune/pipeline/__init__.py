"""The stages in their order: prepare, tune, judge, or fall back to the model set; and the files they leave."""
