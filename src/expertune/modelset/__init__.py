"""The meta-prompting path: model_set_config.json from the same ratings, split and engine."""
