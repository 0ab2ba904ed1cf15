"""The language models of a model set: where each one's file is, and how it is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine.base import Engine
from ..engine.base_model import Base
from ..engine.decision import is_decision_model
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import locate
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.server import OllamaServer
from ..errors import FineTuningNotSupportedError, UsageError
from ..files import sha256
from ..gguf.read import read_metadata

LARGEST_CONTEXT = 8192  # tokens; more examples than fit into it cost more time in every rating than they bring


@dataclass(frozen=True)
class CandidateModel:
    """A model by its name; `digest` is the sha256 of its file. `open` is None where no engine can serve it here.

    `decides`: its file is a decision model, asked by its own template (`engine/decision.py`).
    """

    name: str
    digest: str | None
    open: Callable[[], Engine] | None
    decides: bool = False


def further_members(
    names: Sequence[str], base: str, server: OllamaServer | None, threads: int | None
) -> list[CandidateModel]:
    """Further models of `names`, without the base.

    Raises UsageError for one that is not available.
    """
    return [_found(name, server, threads) for name in dict.fromkeys(names) if name != base]


def _found(name: str, server: OllamaServer | None, threads: int | None) -> CandidateModel:
    try:
        located = locate(name, server)
    except FineTuningNotSupportedError as error:
        if server is None or not server.holds(name):
            raise UsageError(f"--models: {error}") from None
        return CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
    decides = is_decision_model(read_metadata(located.path))
    by_server = server is not None and located.server and not decides  # a decision model's prompt is in its file
    renderer = OllamaRenderer(server, name, context=LARGEST_CONTEXT) if server is not None and by_server else None
    return CandidateModel(
        name,
        sha256(located.path),
        lambda: LlamaCppEngine(located.path, context=LARGEST_CONTEXT, threads=threads, renderer=renderer),
        decides,
    )


def base_member(name: str, base: Base | None, server: OllamaServer | None, threads: int | None) -> CandidateModel:
    """The base as a candidate of the model set: served from its file, else by the server that has it."""
    if base is not None:
        decides = is_decision_model(read_metadata(base.path))
        return CandidateModel(name, base.sha256, lambda: base.open(context=LARGEST_CONTEXT, threads=threads), decides)
    if server is not None and server.holds(name):
        return CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
    return CandidateModel(name, None, None)
