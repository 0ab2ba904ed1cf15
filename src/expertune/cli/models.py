"""Output of `expertune models`: models, whether each can be tuned, memory and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExpertuneError, UsageError
from ..files import size_text
from ..progress import duration_text, speed_text
from .options import print_json

if TYPE_CHECKING:
    from ..engine.locate import Listed
    from ..engine.ollama.server import OllamaServer
    from ..estimate.capability import Capability
    from ..estimate.job import JobPlan
    from ..estimate.plan import Plan
    from ..progress import Progress
    from ..ratings.dataset import Dataset

COLUMNS = ("name", "family", "weights", "quant", "size", "tunable", "memory", "tokens/s", "time", "run", "reason")
NONE = "–"


@dataclass(frozen=True)
class Known:
    """Row of the list: the model as Ollama lists it (None for a file), and what its file says."""

    capability: Capability
    listed: Listed | None
    plan: Plan
    run: JobPlan | None = None

    @property
    def facts(self) -> tuple[str, str, str]:
        """Family, number of weights, quantisation."""
        listed, capability = self.listed, self.capability
        return (
            (listed.family if listed else "") or capability.family or NONE,
            (listed.parameters if listed else "") or count_text(capability.parameters),
            (listed.quantisation if listed else "") or capability.quantisation or NONE,
        )

    @property
    def bytes(self) -> int | None:
        if self.listed is not None:
            return self.listed.size
        return self.capability.path.stat().st_size if self.capability.path is not None else None

    @property
    def size(self) -> str:
        return NONE if self.bytes is None else size_text(self.bytes)

    @property
    def takes(self) -> tuple[str, str, str]:
        """Memory, tokens per second, time."""
        estimate = self.capability.estimate
        if estimate is None:
            return NONE, NONE, NONE
        memory = size_text(estimate.memory.peak)
        if estimate.rate is None:
            return memory, NONE, NONE
        rate = estimate.rate.tokens_per_second
        return memory, speed_text(rate, "").removesuffix("/s"), duration_text(self.plan.seconds(estimate.rate))

    @property
    def whole_run(self) -> str:
        """Time of the whole run."""
        return NONE if self.run is None else duration_text(self.run.seconds)

    def to_dict(self) -> Mapping[str, object]:
        """The row as numbers; None where a figure is not known."""
        capability = self.capability
        estimate, rate = capability.estimate, capability.estimate and capability.estimate.rate
        return {
            "name": self.listed.name if self.listed else capability.model,
            "family": capability.family or (self.listed and self.listed.family),
            "parameters": capability.parameters,
            "quantisation": capability.quantisation or (self.listed and self.listed.quantisation),
            "bytes": self.bytes,
            "tunable": capability.tunable,
            "reason": capability.reason,
            "notes": capability.notes,
            "memory_bytes": estimate and estimate.memory.peak,
            "tokens_per_second": rate and rate.tokens_per_second,
            "training_seconds": rate and self.plan.seconds(rate),
            "run_seconds": self.run and self.run.seconds,
        }

    @property
    def why(self) -> str:
        capability = self.capability
        if capability.tunable:
            return "; ".join(capability.notes)
        return capability.reason.removeprefix(f"{capability.model}: ")


def count_text(count: int | None) -> str:
    """Format a number of weights: 5.77M, 7.2B."""
    if count is None:
        return NONE
    size, unit = next(((size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if count >= size), (1, ""))
    return f"{count / size:.3g}{unit}"


def print_models(
    names: Sequence[str] = (),
    *,
    input: Path | None = None,
    topics: str = "",
    rating_mapping: str | None = None,
    column: Sequence[str] = (),
    sheet: str = "",
    quick: bool = False,
    allow_remote: bool = False,
    as_json: bool = False,
) -> None:
    """Print the server, then a row for each model: what it is, whether it can be tuned, memory and time.

    `names` are Ollama models or files (none: all Ollama models); `quick` measures nothing. The time is for the records
    of `input`, else for the reference plan. Raises UsageError, DatasetError.
    """
    from ..estimate.plan import read_input
    from ..progress import Progress

    if quick and input is not None:
        raise UsageError("--quick, --input: the time for a dataset must be measured; give one of the two")
    dataset = None if input is None else read_input(input, rating_mapping, topics, column, sheet)
    with ExitStack() as stack:
        only_files = bool(names) and all(Path(name).is_file() for name in names)
        server, source = (None, "") if only_files else _open_server(stack, allow_remote)
        if source and not as_json:
            print(source)
        for note in dataset.notes if dataset and not as_json else ():
            print(f"note: {note}")
        models = capabilities_of(names, server)
        progress = stack.enter_context(Progress())
        known = [known_model(each, can, dataset, quick, progress) for each, can in models]
    if as_json:
        print_json({"source": source or None, "models": [each.to_dict() for each in known]})
        return
    if not known:
        print("There are no models; get one with `ollama pull`, for example `ollama pull llama3.2:1b`.")
        return
    rows = [
        (plain(_name(each)), *each.facts, each.size, _yes(each), *each.takes, each.whole_run, plain(each.why))
        for each in known
    ]
    _print_table([tuple(map(plain, row)) for row in rows])
    for line in _legend(known):
        print(line)


def _open_server(stack: ExitStack, allow_remote: bool) -> tuple[OllamaServer | None, str]:
    """Open the server, None if none answers; and a line that says where the models are."""
    from ..engine.ollama.server import OllamaServer

    try:
        server = OllamaServer(allow_remote=allow_remote, patience=5.0)
    except ExpertuneError as error:
        return None, f"{', '.join(folders()) or 'No models folder on this disk'} ({error})"
    stack.enter_context(server)
    return server, f"Ollama {server.version_text} at {server.url}"


def capabilities_of(names: Sequence[str], server: OllamaServer | None) -> list[tuple[Listed | None, Capability]]:
    from ..estimate.capability import capabilities, capability

    if not names:
        return [*capabilities(server)]
    listed = {each.name: (each, can) for each, can in capabilities(server)} if server is not None else {}
    return [listed.get(name.removesuffix(":latest")) or (None, capability(name, server)) for name in names]


def known_model(
    listed: Listed | None, capability: Capability, dataset: Dataset | None, quick: bool, progress: Progress
) -> Known:
    """Add the throughput and plan, measured now or earlier."""
    from ..estimate.capability import tried
    from ..estimate.plan import REFERENCE_PLAN, planned, whole_run, with_cached_throughput, with_throughput
    from ..modelset.prompt_search import records_to_rate

    if dataset is None:
        kept = with_cached_throughput(capability)
        if quick or kept is not capability or not capability.tunable:
            return Known(kept, listed, REFERENCE_PLAN)
    capability = tried(capability)
    if not capability.tunable:
        return Known(capability, listed, REFERENCE_PLAN)
    with progress.stage(f"Measuring {plain(capability.model)}") as stage:
        plan = REFERENCE_PLAN
        if dataset is not None and capability.path is not None:
            try:
                search = records_to_rate(len(dataset.scale.labels), dataset.counts.dev)
                plan = planned(dataset, capability.path, search_records=search)
            except ExpertuneError as error:
                note = f"its tokens could not be counted ({error})"
                return Known(replace(capability, notes=(*capability.notes, note)), listed, plan)
        capability = with_throughput(capability, plan.shape)
        stage.advance()
        return Known(capability, listed, plan, whole_run(plan, capability))


def _name(known: Known) -> str:
    return known.listed.name if known.listed is not None else known.capability.model


def _yes(known: Known) -> str:
    return "yes" if known.capability.tunable else "no"


def _legend(known: Sequence[Known]) -> Iterator[str]:
    """Lines below the table: what memory and time apply to, and the error of such estimates."""
    from ..estimate.plan import MEMORY_ERROR, RATE_ERROR

    estimates = [each for each in known if each.capability.estimate is not None]
    if not estimates:
        return
    timed = [each for each in estimates if each.capability.estimate and each.capability.estimate.rate]
    plans = [each.plan for each in timed or estimates]
    tokens = sorted({plan.shape.row for plan in plans})
    words = plans[0].words(" to ".join(map(str, sorted({tokens[0], tokens[-1]}))))
    yield f"\nMemory and time: training on {words}, with the default settings."
    if any(each.run for each in known):
        yield "Run: the whole run, from reading the records to the report."
    if timed:
        yield (
            f"The speed was measured here. On three models it was within {RATE_ERROR:.0%} of a real run's, the memory "
            f"within {MEMORY_ERROR:.0%}."
        )


def plain(text: str) -> str:
    """Replace control characters, which a terminal would interpret."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print a table with the long reasons below it on a terminal, aligned text elsewhere."""
    import sys

    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table, console = Table(*COLUMNS[:-1]), Console()
        for row in rows:
            table.add_row(*map(Text, row[:-1]))  # as plain text, since a name may look like markup
        console.print(table)
        for name, *_, reason in rows:
            if reason:
                console.print(Text(f"{name}: {reason}"))
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def folders() -> list[str]:
    """The models folders on this disk, with the reason if one is not readable."""
    from ..engine.ollama.disk import may_not_read, models_folders, readable

    states = [(folder, readable(folder)) for folder in models_folders()]
    return [str(folder if state else may_not_read(folder)) for folder, state in states if state is not None]
