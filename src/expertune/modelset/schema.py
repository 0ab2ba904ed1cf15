"""The JSON Schema of model_set_config.json; `python -m expertune.modelset.schema` writes the published copy anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .config import ModelSetConfig


def schema() -> Mapping[str, object]:
    """JSON Schema (2020-12) of the whole file; `model_set.schema.json` in this package holds the same."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "model_set_config.json",
        **{key: value for key, value in ModelSetConfig.model_json_schema().items() if key != "title"},
    }


if __name__ == "__main__":
    Path(__file__).with_name("model_set.schema.json").write_text(
        json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
