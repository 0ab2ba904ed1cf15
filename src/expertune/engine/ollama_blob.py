"""Which file an Ollama server runs under a name, from its /api/show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FROM_BLOB = re.compile(r"^FROM (.*sha256-([0-9a-f]{64}))\s*$", re.MULTILINE)


def served_blob(shown: Mapping[str, Any]) -> tuple[str, str] | None:
    """The path of the model file, as the server writes it, and its sha256; None where the server does not say."""
    found = FROM_BLOB.search(str(shown.get("modelfile") or ""))
    return (found[1], found[2]) if found else None
