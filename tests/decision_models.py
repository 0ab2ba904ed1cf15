"""Tiny decision models: the keys that make a GGUF one, with a template that lists the options by their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny

TEMPLATE = (
    tiny.BOS + "{{ instructions }}\n{% for option in options %}{{ option.label }} {{ option.key }}"
    "{% if option.description %}: {{ option.description }}{% endif %}\n{% endfor %}{{ state }}\nAnswer:"
)


def make(path: Path, *, temperatures: dict[str, float] | None = None, **how: Any) -> Path:
    """A tiny model of type nimble; `temperatures` by the end of their key ("choice", "choice.3_5")."""
    keys: dict[str, Any] = {"llama.decision.type": "nimble", "tokenizer.chat_template.systemone": TEMPLATE}
    keys |= {f"llama.decision.temperature.{name}": value for name, value in (temperatures or {}).items()}
    return tiny.make(path, extra=keys, **how)
