"""The models in memory: one embedded engine each, brought up when it is first needed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError

from .show import moment
from .store import Failure, Model

MOST_LOADED, KEEP_ALIVE = 3, 300
CANNOT_LOAD = "llama-server process has terminated: exit status 1"


@dataclass
class Loaded:
    """A model in memory, under the context that it was loaded with."""

    model: Model
    asked: int
    engine: LlamaCppEngine
    expires: float = 0.0


@dataclass
class Runners:
    """The loaded models by name; the one that is used least goes when there are too many."""

    loaded: dict[str, Loaded] = field(default_factory=dict)

    def get(self, model: Model, context: int) -> LlamaCppEngine:
        name = model.name.short
        known = self.loaded.pop(name, None)
        if known is not None and (known.asked, known.model.digest) != (context, model.digest):
            known.engine.close()
            known = None
        if known is None:
            while len(self.loaded) >= MOST_LOADED:
                self.unload(next(iter(self.loaded)))
            known = Loaded(model, context, _load(model, context))
        self.loaded[name] = known
        known.expires = time.time() + KEEP_ALIVE
        return known.engine

    def unload(self, name: str) -> None:
        if known := self.loaded.pop(name, None):
            known.engine.close()

    def close(self) -> None:
        for name in list(self.loaded):
            self.unload(name)

    def ps(self) -> dict[str, Any]:
        newest = sorted(self.loaded.values(), key=lambda loaded: -loaded.expires)
        return {
            "models": [
                {
                    "name": each.model.name.short,
                    "model": each.model.name.short,
                    "size": each.engine.file_bytes,
                    "digest": each.model.digest,
                    "details": {**each.model.details(), "parent_model": ""},
                    "expires_at": moment(int(each.expires * 1e9)),
                    "size_vram": 0,
                    "context_length": each.engine.context,
                }
                for each in newest
            ]
        }


def _load(model: Model, context: int) -> LlamaCppEngine:
    path = model.path("model")
    if path is None:
        raise Failure(500, CANNOT_LOAD)
    try:
        return LlamaCppEngine(path, adapter=model.path("adapter"), context=context, threads=1)
    except (EngineError, OSError):
        raise Failure(500, CANNOT_LOAD) from None
