"""JSON schema → GBNF as llama.cpp's json-schema-to-grammar, for the tests' schemas only: required texts and enums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RULES = r"""
space ::= | " " | "\n"{1,2} [ \t]{0,20}
char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})
"""


def grammar(schema: Mapping[str, Any]) -> str:
    return f"root ::= {_rule(schema)}{RULES}"


def _rule(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"({' | '.join(map(_literal, schema['enum']))}) space"
    if schema["type"] == "string":
        size = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
        return rf'"\"" char{size} "\"" space'
    if schema["type"] == "object" and schema["required"] == list(schema["properties"]):
        pairs = (f'{_literal(name)} space ":" space {_rule(rule)}' for name, rule in schema["properties"].items())
        return '"{" space ' + ' "," space '.join(pairs) + ' "}" space'
    raise NotImplementedError(f"a schema that the tests do not use: {schema}")


def _literal(value: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
