"""Answers side by side with recorded ones: their form, and their words without what differs from file to file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DISK = Path(__file__).parent.parent / "data/ollama"
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def form(value: Any) -> Any:
    """Keys in their order, all the way down; of a list its first element; a token's `bytes` may be left out."""
    if isinstance(value, dict):
        return [(key, form(inner)) for key, inner in value.items() if not (key == "bytes" and "token" in value)]
    if isinstance(value, str) and value.startswith("(left out here: "):
        return "list"
    if isinstance(value, list):
        return ["list", *map(form, value[:1])] if value and isinstance(value[0], dict) else "list"
    return None


TEXT_BLOBS = {path.name.removeprefix("sha256-") for path in DISK.glob("blobs/*")}


def words(text: str) -> str:
    """A text without what differs by file: digests of models, the folder, a tensor's name, numbers."""
    text = DIGEST.sub(lambda match: match[0] if match[1] in TEXT_BLOBS else "<digest>", text)
    text = re.sub(r"(/[^ :\n]*)+/blobs/", "<folder>/", text)
    text = re.sub(r'tensor "[^"]*"', 'tensor "<name>"', text)
    return re.sub(r'(?<=\()\d+|(?<=n_prompt_tokens":)\d+', "<number>", text)


def said(value: dict[str, Any]) -> dict[str, Any]:
    """The values that do not depend on the weights, in a form that can be compared."""
    out = {
        key: value[key] for key in ("model", "done", "license", "system", "template", "capabilities") if key in value
    }
    out |= {key: words(value[key]) for key in ("error", "status") if key in value}
    out |= {key: sorted(words(value[key]).splitlines()) for key in ("modelfile", "parameters") if key in value}
    out |= {"done_reason": value["done_reason"]} if value.get("done_reason") in ("load", "unload") else {}
    return out | ({"render": value["_debug_info"]} if "_debug_info" in value else {})


def answers_with(response: dict[str, Any]) -> list[Any]:
    if "lines" in response:
        return response["lines"]
    return [] if response.get("json") is None else [response["json"]]
