"""Find the model that is to be tuned, and those that a model set may prompt."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..config import Config
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import locate
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.server import OllamaServer, running_server
from ..errors import FineTuningNotSupportedError, UsageError
from ..files import sha256
from ..gguf.read import GGUFFile
from ..modelset.members import LARGEST_CONTEXT, CandidateModel, further_members
from ..rate.artifact import ANSWER_ROOM
from .state import Base, Models, NotTuned, RunRequest
from .workspace import Workspace

log = logging.getLogger("expertune")


def find_models(request: RunRequest, ws: Workspace) -> Models:
    """Locate the base, in the running Ollama or on disk, and the further models of `config.models`.

    Raises UsageError for a path that leads nowhere and ModelFileError for a damaged file. A name that no local file
    belongs to is NotTuned: a model set can be made for it.
    """
    name, config = request.model, request.config
    needs_server = bool(config.models) or not Path(name).expanduser().exists()
    server = running_server(allow_remote=request.allow_remote) if needs_server else None
    if server is not None:
        ws.stack.callback(server.close)
    further = further_members(config.models, name, server, config.threads)
    base = _find_base(name, server, config)
    return Models(base, (_candidate(name, base, server, config), *further))


def _find_base(name: str, server: OllamaServer | None, config: Config) -> Base | NotTuned:
    try:
        found = locate(name, server)
    except FineTuningNotSupportedError as error:
        return NotTuned(error)
    except UsageError as error:
        if name.endswith(".gguf") or Path(name).exists() or os.sep in name:
            raise
        return NotTuned(FineTuningNotSupportedError(str(error)))
    with GGUFFile(found.path):  # a damaged file is refused before any work
        digest = sha256(found.path)
    asked = server is not None and found.server is not None
    renderer = OllamaRenderer(server, name, context=config.max_tokens + ANSWER_ROOM) if asked and server else None
    base = Base(name, found, digest, renderer)
    log.info("base %s (%s), sha256 %s, prompts by %s", found.path, found.source, digest, base.prompts_by)
    return base


def _candidate(name: str, base: Base | NotTuned, server: OllamaServer | None, config: Config) -> CandidateModel:
    """The base as a model set prompts it: by its file, else by the server that has it."""
    if isinstance(base, Base):
        path, renderer, threads = base.path, base.renderer, config.threads
        return CandidateModel(
            name,
            base.sha256,
            lambda: LlamaCppEngine(path, context=LARGEST_CONTEXT, threads=threads, renderer=renderer),
        )
    if server is not None and server.holds(name):
        return CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
    return CandidateModel(name, None, None)
