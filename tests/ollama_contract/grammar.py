"""JSON schema → GBNF in the manner of llama.cpp's json-schema-to-grammar, with its freedom in blanks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SPACE = '| " " | "\\n"{1,2} [ \\t]{0,20}'
CHAR = r'[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})'
PRIMITIVES = {
    "boolean": '("true" | "false") space',
    "integer": '("-"? integral-part) space',
    "null": '"null" space',
    "number": '("-"? integral-part) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,16})? space',
    "string": '"\\"" char* "\\"" space',
}
ANY = {
    **PRIMITIVES,
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space (string ":" space value ("," space string ":" space value)*)? "}" space',
    "array": '"[" space (value ("," space value)*)? "]" space',
}


class SchemaError(Exception):
    """llama.cpp's words for a schema that it cannot convert."""


def grammar(schema: Any) -> str:
    """`schema` is "json" (any object) or a JSON schema. Raises SchemaError."""
    root = "object" if schema == "json" else _rule(schema, "#")
    rules = {"root": root, "space": SPACE, "char": CHAR, "integral-part": "[0] | [1-9] [0-9]{0,15}", **ANY}
    return "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())


def _rule(schema: Mapping[str, Any], where: str) -> str:
    if "const" in schema:
        return f"{_literal(json.dumps(schema['const'], ensure_ascii=False))} space"
    if "enum" in schema:
        values = (_literal(json.dumps(value, ensure_ascii=False)) for value in schema["enum"])
        return f"({' | '.join(values)}) space"
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return _object(schema, where)
    if kind == "array" and "items" in schema:
        item = f"({_rule(schema['items'], where + '/items')})"
        return f'"[" space ({item} ("," space {item})*)? "]" space'
    if kind == "string" and ("maxLength" in schema or "minLength" in schema):
        size = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
        return f'"\\"" char{size} "\\"" space'
    if kind in (*PRIMITIVES, "object", "array"):
        return kind
    if kind is None:
        return "value"
    raise SchemaError(f"JSON schema conversion failed:\nJSON schema error at {where}: unrecognized type {kind}")


def _object(schema: Mapping[str, Any], where: str) -> str:
    """The required properties in their order, then any of the others, in theirs."""
    pairs = {
        name: f'{_literal(json.dumps(name, ensure_ascii=False))} space ":" space ({_rule(rule, f"{where}/{name}")})'
        for name, rule in schema["properties"].items()
    }
    required = [pair for name, pair in pairs.items() if name in schema.get("required", ())]
    optional = [pair for name, pair in pairs.items() if name not in schema.get("required", ())]
    if required:
        inside = ' "," space '.join(required) + "".join(f' ("," space {pair})?' for pair in optional)
    else:
        inside = f"({' | '.join(_chain(optional[i:]) for i in range(len(optional)))})?"
    return f'"{{" space {inside} "}}" space'


def _chain(pairs: list[str]) -> str:
    return pairs[0] + "".join(f' ("," space {pair})?' for pair in pairs[1:])


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
