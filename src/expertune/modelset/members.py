"""The language models of a model set: where each one's file is, and how it is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..config import Config, with_changes
from ..engine.base import Engine
from ..engine.base_model import Base
from ..engine.decision import is_decision_model
from ..engine.locate import locate
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.server import OllamaServer
from ..errors import FineTuningNotSupportedError, UsageError
from ..files import sha256
from ..gguf.read import read_metadata
from ..torch_engine import LLAMA_CPP, check_readable, open_base, open_engine
from ..torch_engine import NAME as TORCH

LARGEST_CONTEXT = 8192  # tokens; more examples than fit into it cost more time in every rating than they bring


@dataclass(frozen=True)
class CandidateModel:
    """A model by its name; `digest` is the sha256 of its file. `open` is None where no engine can serve it here.

    `open_to_compare` serves a tuned model's base, which our decoder reads, where another product will be used: it is
    faster than what serves the model.
    `decides`: its file is a decision model, asked by its own template (`engine/decision.py`).
    """

    name: str
    digest: str | None
    open: Callable[[], Engine] | None
    open_to_compare: Callable[[], Engine] | None = None
    decides: bool = False

    @property
    def compared(self) -> CandidateModel:
        """The model as a rater that another product is compared with."""
        return self if self.open_to_compare is None else replace(self, open=self.open_to_compare)


def further_members(
    names: Sequence[str], base: str, server: OllamaServer | None, config: Config
) -> list[CandidateModel]:
    """Further models of `names`, without the base.

    Raises UsageError for one that is not available, EngineError for one that `config.engine` does not read.
    """
    return [_found(name, server, config) for name in dict.fromkeys(names) if name != base]


def _found(name: str, server: OllamaServer | None, config: Config) -> CandidateModel:
    try:
        located = locate(name, server)
    except FineTuningNotSupportedError as error:
        if server is None or not server.holds(name):
            raise UsageError(f"--models: {error}") from None
        return CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
    decides = is_decision_model(read_metadata(located.path))
    if config.engine == TORCH and not decides:
        check_readable(located.path)
    by_server = server is not None and located.server and not decides  # a decision model's prompt is in its file
    renderer = OllamaRenderer(server, name, context=LARGEST_CONTEXT) if server is not None and by_server else None
    by = _settings(config, decides)
    return CandidateModel(
        name,
        sha256(located.path),
        lambda: open_engine(located.path, by, context=LARGEST_CONTEXT, renderer=renderer),
        decides=decides,
    )


def _settings(config: Config, decides: bool) -> Config:
    """The settings to serve a model with: only llama.cpp asks a decision model by its template."""
    return with_changes(config, engine=LLAMA_CPP) if decides else config


def base_member(name: str, base: Base | None, server: OllamaServer | None, config: Config) -> CandidateModel:
    """The base as a candidate of the model set: served from its file, else by the server that has it."""
    if base is not None:
        decides = is_decision_model(read_metadata(base.path))
        by = _settings(config, decides)
        by_torch = with_changes(config, engine=TORCH)
        return CandidateModel(
            name,
            base.sha256,
            lambda: open_base(base, by, context=LARGEST_CONTEXT),
            None if by.engine == LLAMA_CPP else lambda: open_base(base, by_torch, context=LARGEST_CONTEXT),
            decides,
        )
    if server is not None and server.holds(name):
        return CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
    return CandidateModel(name, None, None)
