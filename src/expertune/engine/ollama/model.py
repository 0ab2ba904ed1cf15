"""The settings that Ollama serves with a model, read alike from its server (/api/show) and from its folder.

Formats as Ollama 0.33.0-rc2 writes them: server/routes.go (GetModelInfo), server/images.go (Model.String),
parser/parser.go.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TEMPLATE = "{{ .Prompt }}"  # shown by Ollama where a model has no template layer
LISTS = ("stop",)  # parameters that are lists even with one value
BLOB = re.compile(r"sha256-([0-9a-f]{64})$")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
BOOLS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class ServingTexts:
    """What Ollama serves with a file, None where it has none; `template` is a layer, never the one inside the GGUF."""

    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    renderer: str | None = None
    parser: str | None = None


@dataclass(frozen=True)
class OllamaModel(ServingTexts):
    """A model as Ollama has it; `weights` are paths as their owner sees them."""

    name: str
    weights: tuple[str, ...]
    adapters: int = 0
    vision: bool = False  # has a projector of its own
    format: str = "gguf"
    remote_host: str | None = None


def shown(name: str, show: Mapping[str, Any]) -> OllamaModel:
    """The answer of /api/show. Raises ValueError, TypeError or AttributeError where it is malformed."""
    weights, adapters, rest = _head(str(show.get("modelfile") or ""))
    values: dict[str, str] = {}
    for key in ("TEMPLATE", "SYSTEM", "RENDERER", "PARSER"):  # the order in which they are written
        if rest.startswith(f"{key} "):
            values[key], rest = _value(rest, key, show.get(key.lower()))
    template = values.get("TEMPLATE")
    return OllamaModel(
        name,
        weights,
        adapters,
        vision=bool(show.get("projector_info")) or (len(weights) > 1 and "vision" in (show.get("capabilities") or ())),
        format=str((show.get("details") or {}).get("format") or "gguf"),
        remote_host=show.get("remote_host") or (show.get("remote_model") and "ollama.com") or None,
        template=None if template == DEFAULT_TEMPLATE else template,
        system=show.get("system") or None,
        license=_license(show.get("license")),
        renderer=show.get("renderer") or values.get("RENDERER"),
        parser=show.get("parser") or values.get("PARSER"),
        parameters=parsed_parameters(str(show.get("parameters") or "")),
    )


def served_digest(model: OllamaModel) -> str | None:
    """The sha256 (64 hex digits) of the one file that is served, None where the server does not name it."""
    blob = BLOB.search(model.weights[0]) if len(model.weights) == 1 else None
    return blob[1] if blob else None


def _license(value: Any) -> str | None:
    return ("\n".join(map(str, value)) if isinstance(value, list) else value) or None


def _head(modelfile: str) -> tuple[tuple[str, ...], int, str]:
    """Paths of the FROM lines, the number of ADAPTER lines, and the text after them."""
    weights: list[str] = []
    adapters = 0
    rest = modelfile
    while rest:
        line, _, after = rest.partition("\n")
        key, _, value = line.partition(" ")
        if key == "FROM":
            weights.append(value.strip())
        elif key == "ADAPTER":
            adapters += 1
        elif key not in ("", "DRAFT") and not key.startswith("#"):
            break
        rest = after
    return tuple(filter(None, weights)), adapters, rest


def _value(text: str, key: str, known: Any) -> tuple[str, str]:
    """The value that `text` begins with, and what follows. A text with a line break or blanks around it is quoted,
    but quotes inside it are left as they are: where the answer has the value elsewhere (`known`), that decides."""
    text = text[len(key) + 1 :]
    for quote in ('"""', '"', ""):
        if isinstance(known, str) and text.startswith(f"{quote}{known}{quote}\n"):
            return known, text[len(known) + 2 * len(quote) + 1 :]
    for quote in ('"""', '"'):
        end = text.find(f"{quote}\n", len(quote))
        if text.startswith(quote) and end > 0:
            return text[len(quote) : end], text[end + len(quote) + 1 :]
    line, _, after = text.partition("\n")
    return line, after


def parsed_parameters(text: str) -> Mapping[str, Any]:
    """`parameters` of /api/show: a `key value` a line in Go's syntax (%#v), a repeated key for each value of a list."""
    found: dict[str, list[Any]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key:
            found.setdefault(key, []).append(_go_value(value.strip()))
    return plain_parameters(found)


def plain_parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """One form whatever wrote them: whole numbers as int, a list of one only where the parameter is a list."""
    parts = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    plain = {key: [_plain(part) for part in each if part is not None] for key, each in parts.items()}
    return {key: each if key in LISTS or len(each) > 1 else each[0] for key, each in plain.items() if each}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _go_value(text: str) -> Any:
    if text in BOOLS:
        return BOOLS[text]
    if text == "<nil>":
        return None
    if NUMBER.fullmatch(text):
        return float(text) if any(mark in text for mark in ".eE") else int(text)
    if text.startswith('"'):
        try:
            return str(ast.literal_eval(text))  # Go's escapes are a part of Python's
        except (ValueError, SyntaxError):
            return text.strip('"')
    return text
