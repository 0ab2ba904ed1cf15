"""Try a model in a child process before llama.cpp serves it in this one: what llama.cpp asserts ends its process.

A model that passed is not tried again on this machine. Files that differ in their weights only count as one model: the
assertions are about shapes and metadata, and a chat template that calls itself ends the process too. One that keeps
llama.cpp busy for seconds is refused.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

from ...errors import EngineError, ModelFileError, OutputError
from ...files import cache_folder, write_json
from ...gguf.read import header_digest
from ...machine import usable_cores
from .server import Launch, attempt

MOST = 2000  # models kept, the newest ones
CONTEXT = 256  # tokens; the memory of a large context is not needed
NAMES = ("general.name",)  # metadata that no assertion is about


def check_runs(model: Path, context: int) -> None:
    """Raise EngineError for a file that llama.cpp cannot load or would abort on."""
    key = _key(model)
    known = _known()
    if key in known:
        return
    if reason := attempt(Launch(str(model), "", min(context, CONTEXT), 1, usable_cores(), repack=False)):
        raise EngineError(f"{model}: llama.cpp {reason}")
    if key:
        try:
            write_json(_cache_file(), [*known, key][-MOST:])
        except (OSError, OutputError):
            return


def _cache_file() -> Path:
    return cache_folder() / "models_that_run.json"


def _known() -> list[str]:
    try:
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [key for key in content if isinstance(key, str)] if isinstance(content, list) else []


def _key(model: Path) -> str:
    """Digest of what may decide if llama.cpp runs the model here; "" for a header that only llama.cpp can read."""
    try:
        header = header_digest(model, without=NAMES)
    except ModelFileError:
        return ""
    parts = (header, version("xllamacpp"), platform.node(), platform.machine())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
