"""The request that creates the new model in Ollama with its base's serving configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.locate import Located
from ..engine.ollama.model import OllamaModel
from ..export.decision import is_decision_key

TAG = "unproven"
# keys that tuning changes, or that do not affect serving
OWN_KEYS = (
    "general.file_type",
    "general.quantization_version",
    "general.name",
    "general.parameter_count",
    "expertune.",
)
SAME_FIELDS = ("template", "parameters", "license", "renderer", "parser")  # of ServingTexts: all but the system prompt
SAME_SHOWN = ("template", "requires", "messages")  # of /api/show


@dataclass(frozen=True)
class ServingConfig:
    """Template, parameters, renderer and licence of a model in Ollama, taken from its base if this server has it.

    `shown` is /api/show of the base. `system` is the system prompt of the training, None if the template has no system
    role.
    """

    base: Located | None
    shown: Mapping[str, Any]
    system: str | None


def create_request(name: str, file_name: str, digest: str, serving: ServingConfig) -> dict[str, object]:
    """Build the body of /api/create. Without `from`, which would override `files` and pull a missing model.

    `template` is the base's template layer; Ollama cannot read the file's own Jinja template here.
    """
    base = serving.base
    texts = {name: getattr(base, name) for name in SAME_FIELDS} if base is not None else {}
    parameters = dict(base.parameters) if base is not None else {}
    kept = {key: serving.shown[key] for key in ("requires", "messages") if serving.shown.get(key)}
    given = {**texts, "parameters": parameters, "system": serving.system}
    given = {key: value for key, value in given.items() if value}
    return {"model": name, "files": {file_name: digest}, **given, **kept}


def differences(created: OllamaModel, shown: Mapping[str, Any], serving: ServingConfig) -> list[str]:
    """Fields in which the new model differs from its base, except for the system prompt, which must be its own."""
    wrong = ["system"] if serving.system is not None and created.system != serving.system else []
    base = serving.base
    if base is None:
        return wrong
    wrong += [name for name in SAME_FIELDS if getattr(created, name) != getattr(base, name)]
    wrong += [name for name in SAME_SHOWN if (shown.get(name) or None) != (serving.shown.get(name) or None)]
    if _family(shown) != _family(serving.shown):
        wrong.append("details.family")
    before, now = (set(each.get("capabilities") or ()) for each in (serving.shown, shown))
    decides = any(is_decision_key(key) for key in shown.get("model_info") or {})
    if before - now or (now - before and not decides):  # a decision model may be able to do more
        wrong.append("capabilities")
    new, old = (_served(each.get("model_info") or {}) for each in (shown, serving.shown))
    return sorted({*wrong, *(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))})


def _family(shown: Mapping[str, Any]) -> str | None:
    return shown["details"].get("family")


def _served(info: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in info.items() if not key.startswith(OWN_KEYS) and not is_decision_key(key)}


def unproven(name: str) -> str:
    """Temporary name of a model until it is verified."""
    head, colon, tag = name.rpartition(":")
    return f"{head}:{tag}-{TAG}" if colon and "/" not in tag else f"{name}:{TAG}"
