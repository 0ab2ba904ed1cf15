"""What Ollama is told of the new model: everything that the base has, since a file brings none of it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.locate import Located
from ..engine.ollama.model import OllamaModel

TAG = "unproven"
# what a tuned file changes, or what says nothing of how it is served
OWN_KEYS = (
    "general.file_type",
    "general.quantization_version",
    "general.name",
    "general.parameter_count",
    "expertune.",
)
SAME_FIELDS = ("template", "parameters", "license", "renderer", "parser")  # of Located and OllamaModel
SAME_SHOWN = ("template", "requires", "messages", "capabilities")  # of /api/show


@dataclass(frozen=True)
class ServingConfig:
    """What a model in Ollama has beside its weights: its base's, where the base is a model of this server.

    `shown` is /api/show of the base. `system` is the text under which the file was tuned, None where its template has
    no place for one.
    """

    base: Located | None
    shown: Mapping[str, Any]
    system: str | None


def create_request(name: str, file_name: str, digest: str, dress: ServingConfig) -> dict[str, Any]:
    """The body of /api/create. No `from`: it would win over `files`, and an absent one would be pulled.

    `template` is the base's template LAYER: a text that is only the file's own Jinja could not be read by Ollama here.
    """
    base = dress.base
    texts = {name: getattr(base, name) for name in SAME_FIELDS} if base is not None else {}
    texts["parameters"] = dict(texts.get("parameters") or {})
    kept = {key: dress.shown[key] for key in ("requires", "messages") if dress.shown.get(key)}
    given = {key: value for key, value in {**texts, "system": dress.system}.items() if value}
    return {"model": name, "files": {file_name: digest}, **given, **kept}


def differences(made: OllamaModel, shown: Mapping[str, Any], dress: ServingConfig) -> list[str]:
    """Fields in which the new model is not what it should be: its base, but for the system text."""
    found = ["system"] if dress.system is not None and made.system != dress.system else []
    base = dress.base
    if base is None:
        return found
    found += [name for name in SAME_FIELDS if getattr(made, name) != getattr(base, name)]
    found += [name for name in SAME_SHOWN if (shown.get(name) or None) != (dress.shown.get(name) or None)]
    if shown["details"].get("family") != dress.shown["details"].get("family"):
        found.append("details.family")
    ours, theirs = (_served(each.get("model_info") or {}) for each in (shown, dress.shown))
    return sorted({*found, *(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))})


def _served(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if not key.startswith(OWN_KEYS)}


def unproven(name: str) -> str:
    """The name under which a model stands until it is proven."""
    head, colon, tag = name.rpartition(":")
    return f"{head}:{tag}-{TAG}" if colon and "/" not in tag else f"{name}:{TAG}"
