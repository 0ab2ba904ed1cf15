"""What the stages of one run hand to each other. No torch here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, as_dict
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import Located
from ..engine.ollama.render import OllamaRenderer
from ..predict.score import Pass
from ..progress import Progress
from ..ratings.dataset import Dataset
from ..train.encode import Candidates, Row
from .pass_cache import PassCache


@dataclass(frozen=True)
class Base:
    """The base file, what Ollama serves with it, and who writes its prompts (None: the file's own template)."""

    name: str
    located: Located
    sha256: str
    renderer: OllamaRenderer | None = None

    @property
    def path(self) -> Path:
        return self.located.path

    @property
    def prompts_by(self) -> str:
        return f"Ollama {self.renderer.server.version_text}" if self.renderer else "the file's own template"


@dataclass(frozen=True)
class EncodedDataset:
    """The data as the base's engine sees them, and the base's own ratings."""

    prepared: Dataset
    rows: dict[str, tuple[Row, ...]]
    candidates: Candidates
    context: int
    dev: Pass
    test: Pass
    notes: tuple[str, ...]
    engine: dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """A finished model file with what is to be told about it."""

    file: Path
    dev: Pass
    training: dict[str, Any]
    export: dict[str, Any]
    history: tuple[dict[str, Any], ...]


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Job:
    """One run: what the stages share."""

    base: Base
    config: Config
    folder: Path
    progress: Progress
    clock: Clock
    memory: PassCache
    run_id: str
    resume: bool

    def serve(self, path: Path, *, context: int, adapter: Path | None = None) -> LlamaCppEngine:
        """llama.cpp on a file of this run, with prompts as the server of the base writes them."""
        return LlamaCppEngine(
            path, adapter=adapter, context=context, threads=self.config.threads, renderer=self.base.renderer
        )


def run_identity(base: Base, prepared: Dataset, config: Config) -> str:
    """Two runs with the same identity make the same adapter."""
    facts = {
        "base": base.sha256,
        "rows": prepared.input_sha256,
        "topics": prepared.topics,
        "labels": prepared.scale.labels,
        "settings": as_dict(config),
        "prompts": [base.renderer is not None, base.located.template],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
