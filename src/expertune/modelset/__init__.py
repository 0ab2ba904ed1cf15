"""The meta-prompting path: model_set_config.json from the same ratings, split and engine."""

from .build import build, messages, read, write
from .schema import FILE_NAME, VERSION, ModelSetConfig, schema, validate

__all__ = ["FILE_NAME", "VERSION", "ModelSetConfig", "build", "messages", "read", "schema", "validate", "write"]
