"""JSON schemas: check an answer against one, and convert one to llama.cpp's grammar (GBNF).

The grammar writes as `json.dumps` does: the bytes that the model was trained on.
llama.cpp has a converter, but the xllamacpp wheel (2026.10) sends schemas to llguidance instead, which fails with
SentencePiece vocabularies (Llama 2, Mistral, Phi-3): at the first token with a leading blank it prints a warning with
the token's text on stderr and stops constraining.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import EngineError

CHARACTER = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4})'
INTEGER = r'"-"? ("0" | [1-9] [0-9]{0,15})'
SCALARS = {
    "integer": INTEGER,
    "number": INTEGER + r' ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
SIZES = {"minLength", "maxLength", "minItems", "maxItems"}
KEYS = {"type", "enum", "const", "properties", "required", "items", "additionalProperties", *SIZES}
KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
NOTES = {"$schema", "title", "description", "default", "examples"}


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """A grammar for objects (every property required, in the schema's order, no other), arrays, texts, enums, numbers.

    Raises EngineError for a keyword that it does not know: an unenforced rule would be worse than none.
    """
    return f"root ::= {_rule(schema)}\nchar ::= {CHARACTER}\n"


def _rule(schema: Mapping[str, Any]) -> str:
    if unknown := sorted(set(schema) - KEYS - NOTES):
        raise EngineError(f"JSON schema: {', '.join(unknown)} is not supported; use {', '.join(sorted(KEYS))}")
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return "(" + " | ".join(_literal(value) for value in schema["enum"]) + ")"
    kind = schema.get("type")
    if kind == "object":
        return _object(schema)
    if kind == "array":
        return _array(schema)
    if kind == "string":
        return rf'"\"" char{_times(schema, "Length")} "\""'
    if kind in SCALARS:
        return f"({SCALARS[kind]})"
    raise EngineError(f"JSON schema: type {kind!r} is not supported; use object, array, string, {', '.join(SCALARS)}")


def _object(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties", {})
    if set(schema.get("required", properties)) != set(properties) or schema.get("additionalProperties"):
        raise EngineError("JSON schema: an object needs every property in `required` and no additional ones")
    members = [f" {_text(_json(name) + ': ')} {_rule(rule)} " for name, rule in properties.items()]
    return f'"{{" {_text(", ").join(members)} "}}"'


def _array(schema: Mapping[str, Any]) -> str:
    if "items" not in schema:
        raise EngineError("JSON schema: an array needs `items`")
    item, low, high = _rule(schema["items"]), schema.get("minItems", 0), schema.get("maxItems")
    if high == 0:
        return '"[]"'
    more = "{" + f"{max(low - 1, 0)},{'' if high is None else high - 1}" + "}"
    some = f"{item} ({_text(', ')} {item}){more}"
    return f'"[" ({some}){"" if low else "?"} "]"'


def _times(schema: Mapping[str, Any], what: str) -> str:
    return "{" + f"{schema.get('min' + what, 0)},{schema.get('max' + what, '')}" + "}"


def _literal(value: Any) -> str:
    return _text(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(text: str) -> str:
    """A GBNF literal; control characters cannot occur, since json.dumps has escaped them."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Check whether `text` is JSON of `schema` (the keywords that schema_grammar knows, but for the sizes of texts)."""
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
