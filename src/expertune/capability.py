"""Whether a model can be tuned here, and where not, why: asked of the file's header, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.locate import Listed, Located, listed, locate
from .engine.ollama_server import OllamaServer
from .errors import ExpertuneError
from .gguf.read import GGUFFile
from .model.arch import read_spec


@dataclass(frozen=True)
class Capability:
    """Whether a model can be tuned here, with the reason where it cannot; `notes` hold what to know where it can."""

    model: str
    tunable: bool
    reason: str
    path: Path | None = None
    family: str | None = None
    notes: tuple[str, ...] = ()


def capability(model: str, server: OllamaServer | None = None) -> Capability:
    """Find the model (see `locate`) and look whether it can be tuned; never raises for one that cannot."""
    try:
        return _of_file(model, locate(model, server))
    except ExpertuneError as error:
        return Capability(model, False, str(error))


def capabilities(server: OllamaServer | None = None) -> list[tuple[Listed, Capability]]:
    """Every model that Ollama holds (see `listed`) with whether it can be tuned."""
    return [(each, _of_listed(each)) for each in listed(server)]


def _of_listed(model: Listed) -> Capability:
    if model.located is None:
        return Capability(model.name, False, model.reason or "its file cannot be had")
    try:
        return _of_file(model.name, model.located)
    except ExpertuneError as error:
        return Capability(model.name, False, str(error), model.located.path)


def _of_file(model: str, found: Located) -> Capability:
    with GGUFFile(found.path) as file:
        spec = read_spec(file)
    return Capability(model, True, "can be tuned", found.path, spec.family, found.notes)
