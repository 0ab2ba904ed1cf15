"""Output of `expertune doctor`: library versions, machine, Ollama and, if named, a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExpertuneError
from ..files import size_text
from ..progress import duration_text
from .models import Known, capabilities_of, folders, known_model, plain
from .options import print_json

if TYPE_CHECKING:
    from ..progress import Progress


def print_doctor(model: str | None, *, as_json: bool = False) -> None:
    """Print library versions, machine, Ollama and, if named, the model."""
    import os

    import psutil

    from ..outputs import versions

    memory, (ollama, here, none) = psutil.virtual_memory(), _ollama()
    known, run = (None, "") if model is None else _known(model)
    if as_json:
        document: dict[str, object] = {
            "versions": versions(),
            "cores": os.cpu_count(),
            "memory_bytes": {"available": memory.available, "total": memory.total},
            "ollama": ollama,
            "models_folders": here,
        }
        print_json(document | ({"model": {**known.to_dict(), "run": run or None}} if known else {}))
        return
    lines = [*versions().items(), ("cores", os.cpu_count())]
    lines += [("memory", f"{size_text(memory.available)} free of {size_text(memory.total)}"), ("Ollama", ollama)]
    lines += [("models folder", line) for line in here or [none]]
    for name, line in (*lines, *(_model_lines(known, run) if known else ())):
        print(f"{name:14} {line}")


def _known(model: str) -> tuple[Known, str]:
    """The model with its estimates, and a line on the time of a whole run."""
    from ..engine.ollama.server import running_server
    from ..progress import Progress

    with (None if Path(model).is_file() else running_server()) or nullcontext() as server, Progress() as progress:
        ((listed, capability),) = capabilities_of([model], server)
        known = known_model(listed, capability, None, False, progress)
        return known, _reference_run(known, progress)


def _model_lines(known: Known, run: str) -> Iterator[tuple[str, str]]:
    capability = known.capability
    yield "model", plain(f"{capability.model}: {capability.reason}")
    for note in capability.notes:
        yield "", plain(note)
    if capability.path is None:
        return
    family, weights, quantisation = known.facts
    yield "", f"{family}, {weights} weights, {quantisation}, {known.size}"
    memory, rate, time = known.takes
    if capability.tunable:
        yield "", f"{memory} of memory, {rate} tokens/s: {time} for {known.plan.words(str(known.plan.shape.row))}"
        yield "", run


def _reference_run(known: Known, progress: Progress) -> str:
    """The time of a whole run on 1,000 records, or why it is not known."""
    from ..estimate.plan import REFERENCE_COUNTS, reference_plan, whole_run
    from ..modelset.prompt_search import records_to_rate
    from ..ratings.scale import DEFAULT_MAPPING

    capability, counts = known.capability, REFERENCE_COUNTS
    if capability.path is None or capability.estimate is None:
        return ""
    try:
        with progress.stage(f"Measuring {plain(capability.model)} with llama.cpp"):
            plan = reference_plan(capability.path, records_to_rate(len(DEFAULT_MAPPING), counts.dev))
            found = whole_run(plan, capability)
    except ExpertuneError as error:
        return f"the time of a whole run could not be estimated ({error})"
    if found is None:
        return ""
    records = sum(counts.parts().values())
    return f"a whole run on {records:,} records of {plan.shape.row} tokens: {duration_text(found.seconds)}"


def _ollama() -> tuple[str, list[str], str]:
    """The server or why there is none, the models folders (the one that the server names, those on this disk), and
    what to say if there is no folder."""
    from ..engine.ollama.disk import readable
    from ..engine.ollama.server import OllamaServer

    here, theirs, none = folders(), None, "none on this disk (OLLAMA_MODELS can name one)"
    try:
        with OllamaServer() as server:
            ollama = f"{server.url}, version {server.version_text}"
            theirs = server.models_folder()
            none = "the server was asked; it has no models, whose files would name its folder, and none is on this disk"
    except ExpertuneError as error:
        ollama = str(error)
    if theirs is not None and not any(line.startswith(theirs) for line in here):
        here.insert(0, f"{theirs} (named by the server{'' if readable(Path(theirs)) else '; not readable here'})")
    return ollama, here, none
