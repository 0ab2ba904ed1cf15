"""What Ollama is told of the new model: everything that the base has, since a file brings none of it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.locate import Located

TAG = "unproven"
# what a tuned file changes, or what says nothing of how it is served
OWN_KEYS = (
    "general.file_type",
    "general.quantization_version",
    "general.name",
    "general.parameter_count",
    "expertune.",
)
SAME_FIELDS = ("template", "license", "renderer", "parser", "requires", "messages", "capabilities")


@dataclass(frozen=True)
class Dress:
    """What a model in Ollama has beside its weights. `shown` is /api/show of the base, None where it is only a file.

    `template` is the base's template LAYER: a text that is only the file's own Jinja must not be sent, Ollama could not
    read it. `system` is the text under which the file was tuned, None where its template has no place for one.
    """

    template: str | None
    system: str | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, base: Located | None, shown: Mapping[str, Any] | None, system: str | None) -> Dress:
        if base is None or shown is None:
            return cls(None, system)
        return cls(base.template, system, dict(base.parameters), shown)


def create_request(name: str, file_name: str, digest: str, dress: Dress) -> dict[str, Any]:
    """The body of /api/create. No `from`: it would win over `files`, and an absent one would be pulled."""
    shown = dress.shown or {}
    kept = {key: shown[key] for key in ("license", "renderer", "parser", "requires", "messages") if shown.get(key)}
    texts = {"template": dress.template, "system": dress.system, "parameters": dict(dress.parameters)}
    return {
        "model": name,
        "files": {file_name: digest},
        **{key: value for key, value in texts.items() if value},
        **kept,
    }


def differences(made: Mapping[str, Any], dress: Dress) -> list[str]:
    """Fields in which /api/show of the new model is not what it should be: its base's, but for the system text."""
    found = [] if (made.get("system") or None) == dress.system or dress.system is None else ["system"]
    if dress.shown is None:
        return found
    base = dress.shown
    found += [name for name in SAME_FIELDS if (made.get(name) or None) != (base.get(name) or None)]
    if _lines(made) != _lines(base):
        found.append("parameters")
    if made["details"].get("family") != base["details"].get("family"):
        found.append("details.family")
    ours, theirs = (_served(each.get("model_info") or {}) for each in (made, base))
    return found + sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def _lines(shown: Mapping[str, Any]) -> list[list[str]]:
    """The parameters, blanks folded; one key's values in their order, the keys in any."""
    text = str(shown.get("parameters") or "")
    return sorted((line.split() for line in text.splitlines()), key=lambda line: line[:1])


def _served(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if not key.startswith(OWN_KEYS)}


def unproven(name: str) -> str:
    """The name under which a model stands until it is proven."""
    head, colon, tag = name.rpartition(":")
    return f"{head}:{tag}-{TAG}" if colon and "/" not in tag else f"{name}:{TAG}"
