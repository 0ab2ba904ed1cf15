"""The base model of a run: its file, how Ollama serves it, and who renders its prompts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import FineTuningNotSupportedError, UsageError
from ..files import sha256
from ..gguf.read import GGUFFile
from .llama_cpp.engine import LlamaCppEngine
from .locate import Located, locate
from .ollama.render import OllamaRenderer
from .ollama.server import OllamaServer

log = logging.getLogger("expertune")


@dataclass(frozen=True)
class Base:
    """The base file, its serving configuration, and the renderer of its prompts (None: the file's own template)."""

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

    def open(self, *, context: int, threads: int | None, file: Path | None = None) -> LlamaCppEngine:
        """Load the base, or another `file` of this run, with llama.cpp; prompts are rendered as for the base."""
        return LlamaCppEngine(file or self.path, context=context, threads=threads, renderer=self.renderer)


def find_base(name: str, server: OllamaServer | None, *, context: int) -> Base:
    """Locate and check the file of a model; `context` is what a request to its server for a prompt may hold.

    Raises UsageError for a path that does not exist, ModelFileError for a damaged file, and FineTuningNotSupportedError
    for a name without a local file.
    """
    try:
        located = locate(name, server)
    except UsageError as error:
        if name.endswith(".gguf") or Path(name).exists() or os.sep in name:
            raise
        raise FineTuningNotSupportedError(str(error)) from None
    with GGUFFile(located.path):  # a damaged file is refused before any work
        digest = sha256(located.path)
    rendering_server = server if located.server is not None else None
    renderer = OllamaRenderer(rendering_server, name, context=context) if rendering_server else None
    base = Base(name, located, digest, renderer)
    log.info("base %s (%s), sha256 %s, prompts by %s", located.path, located.source, digest, base.prompts_by)
    return base
