"""Does an answer keep to its JSON schema? Servers have been seen to forget it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether `text` is JSON of `schema` (the keywords that engine.grammar knows, but for the sizes of texts)."""
    try:
        return _fits(json.loads(text), schema)
    except ValueError:
        return False


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type", "object")
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind in ("integer", "number")):
        return False
    if isinstance(value, dict):
        rules = schema.get("properties", {})
        needed = schema.get("required", rules)
        return set(needed) <= set(value) and all(
            name in rules and _fits(each, rules[name]) for name, each in value.items()
        )
    if isinstance(value, list):
        return all(_fits(each, schema.get("items", {})) for each in value)
    return True
