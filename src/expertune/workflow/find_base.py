"""Find the base model to tune, and the models that a model set may prompt."""

from __future__ import annotations

from pathlib import Path

from ..engine.base_model import Base, find_base
from ..engine.ollama.server import running_server
from ..modelset.members import base_member, further_members
from ..rate.artifact import ANSWER_ROOM
from ..torch_engine import NAME as TORCH
from ..torch_engine import check_readable
from ..workspace import Workspace
from .state import Models, RunRequest, as_value


def find_models(request: RunRequest, ws: Workspace) -> Models:
    """Locate the base, in the running Ollama or on disk, and the further models of `config.models`.

    Raises UsageError for a path that does not exist, ModelFileError for a damaged file, and EngineError for one that
    `config.engine` does not read. A model without a local
    file gives NotTuned: a model set can be made for it.
    """
    name, config = request.model, request.config
    needs_server = bool(config.models) or not Path(name).expanduser().exists()
    server = running_server(allow_remote=request.allow_remote) if needs_server else None
    if server is not None:
        ws.stack.callback(server.close)
    further = further_members(config.models, name, server, config)
    base = as_value(lambda: find_base(name, server, context=config.max_tokens + ANSWER_ROOM))
    if isinstance(base, Base) and config.engine == TORCH:
        check_readable(base.path)
    first = base_member(name, base if isinstance(base, Base) else None, server, config)
    return Models(base, (first, *further))
