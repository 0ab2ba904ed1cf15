"""Find the base model to tune, and the models that a model set may prompt."""

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

    Raises UsageError for a path that does not exist and ModelFileError for a damaged file. A model without a local
    file gives NotTuned: a model set can be made for it.
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
        located = locate(name, server)
    except FineTuningNotSupportedError as error:
        return NotTuned(error)
    except UsageError as error:
        if name.endswith(".gguf") or Path(name).exists() or os.sep in name:
            raise
        return NotTuned(FineTuningNotSupportedError(str(error)))
    with GGUFFile(located.path):  # a damaged file is refused before any work
        digest = sha256(located.path)
    rendering_server = server if located.server is not None else None
    context = config.max_tokens + ANSWER_ROOM
    renderer = OllamaRenderer(rendering_server, name, context=context) if rendering_server else None
    base = Base(name, located, digest, renderer)
    log.info("base %s (%s), sha256 %s, prompts by %s", located.path, located.source, digest, base.prompts_by)
    return base


def _candidate(name: str, base: Base | NotTuned, server: OllamaServer | None, config: Config) -> CandidateModel:
    """The base as a candidate of the model set: served from its file, else by the server that has it."""
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
