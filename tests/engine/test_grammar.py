"""Schemas become grammars whose every answer is the schema's JSON, in the bytes that json.dumps writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import tiny
from expertune.engine.json_schema import schema_grammar
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError


@pytest.fixture(scope="module", params=["bpe", "spm"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    path = tiny.make(tmp_path_factory.mktemp("grammar") / "model.gguf", vocab=request.param, layers=1)
    with LlamaCppEngine(path, threads=1) as engine:
        yield engine


def test_the_rating_schema():
    schema = {"type": "object", "properties": {"rating": {"enum": ["Match", 'say "no"']}}, "required": ["rating"]}
    assert schema_grammar(schema).splitlines()[0] == (
        r'''root ::= "{"  "\"rating\": " ("\"Match\"" | "\"say \\\"no\\\"\"")  "}"'''
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["Match", "Does Not Match", 'a "quoted" \\ label', "naïve\n"]},
        {"const": {"a": [1, None, True]}},
        {"type": "string", "minLength": 2, "maxLength": 5},
        {"type": "string", "maxLength": 2000},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 1},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 0},
        {"type": "object", "properties": {}},
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["b", "a"],
            "title": "ignored",
            "properties": {
                "a": {"type": "object", "properties": {"x y": {"enum": [1, 2.5]}}},
                "b": {"type": "integer"},
            },
        },
    ],
    ids=str,
)
def test_every_answer_fits(engine: LlamaCppEngine, schema: dict[str, Any]):
    for ask in ("cough", "fever", "a fall"):
        answer = engine.generate(ask, schema=schema, max_tokens=2000)
        if not answer.finished and schema.get("maxLength", 0) > 100:
            continue  # random weights may fill the context with one text
        value = json.loads(answer.text)
        assert answer.finished and _fits(value, schema)
        if schema.get("type") not in ("number", "string"):  # these have more than one spelling
            assert answer.text == json.dumps(value, ensure_ascii=False)


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema["type"] == "object":
        rules = schema["properties"]
        return list(value) == list(rules) and all(_fits(value[key], rule) for key, rule in rules.items())
    if schema["type"] == "array":
        size = schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
        return size and all(_fits(item, schema["items"]) for item in value)
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[schema["type"]]) and len(str(value)) >= schema.get("minLength", 0)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern is not supported"),
        ({"anyOf": []}, "anyOf is not supported"),
        ({"type": "wrong"}, "'wrong' is not supported"),
        ({}, "None is not supported"),
        ({"type": "array"}, "needs `items`"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": []}, "every property in `required`"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "no additional"),
    ],
)
def test_what_it_does_not_know_it_refuses(schema: dict[str, Any], line: str):
    with pytest.raises(EngineError, match=line):
        schema_grammar(schema)
