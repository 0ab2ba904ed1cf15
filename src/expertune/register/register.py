"""Registration: upload, create under a name of its own, prove, and only then give the model its name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import Located, locate
from ..engine.ollama import model
from ..engine.ollama.disk import parts_of
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.score import PartOfCharacterError
from ..engine.ollama.server import UPLOAD_BLOCK, OllamaServer, full_name
from ..errors import ExpertuneError, FineTuningNotSupportedError, RegistrationError
from ..files import sha256
from ..modelset.config import output_schema
from ..predict.score import rate_examples
from ..progress import Progress
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..record import Registration, RunRecord, ServedAgreement
from .create import ServingConfig, create_request, differences, unproven
from .preflight import gate_failures
from .verify import check_bytes, check_ratings, sample
from .verify_prompts import check_renders, check_rows, check_tokens, probes

log = logging.getLogger("expertune")

SAMPLE = 24  # held-out rows that the registered model rates once more
ROOM = 64  # tokens of an answer


@dataclass(frozen=True)
class Candidate:
    """A finished file and all that it has to be held to.

    `base` is None where the base is no model of this server; `prompts_by_server` says that the server wrote the prompts
    that the file was tuned on. `context` is the tokens that one request may hold, `rows` are held-out ones.
    """

    file: Path
    base: Located | None
    base_name: str
    prompts_by_server: bool
    system: str
    rows: tuple[Example, ...]
    scale: RatingScale
    context: int
    threads: int | None
    record: RunRecord


def register(
    server: OllamaServer,
    name: str,
    candidate: Candidate,
    progress: Progress,
    *,
    replace: bool = False,
    force: bool = False,
) -> Registration:
    """Make `name` in Ollama from the candidate's file. Whatever goes wrong, `name` is as it was before.

    Raises RegistrationError (the gate, a name in use, a difference), EngineError, OutputError and UsageError.
    """
    overridden = tuple(_objections(candidate, force=force))
    taken = _check_name(server, name, candidate, replace=replace)
    digest = sha256(candidate.file)
    _check_file(candidate, digest)
    reference = _reference(server, candidate)
    temporary = unproven(name)
    with (
        LlamaCppEngine(
            candidate.file, context=candidate.context, threads=candidate.threads, renderer=reference
        ) as by_file,
        _removed_at_the_end(server, temporary),
    ):
        rows = _sample(by_file, candidate)
        dress = _dress(server, candidate, folds_system=by_file.folds_system)
        _make(server, temporary, candidate.file, digest, dress, progress)
        served, kept = _check_model(server, temporary, candidate.file, digest, dress)
        with OllamaEngine(
            server,
            temporary,
            context=candidate.context,
            file=candidate.file,
            threads=candidate.threads,
            fallback=False,  # the file must not be compared with itself
        ) as by_server:
            prompts = _check_prompts(by_server, by_file, candidate, rows, progress)
            agreement = _check_ratings(by_server, by_file, candidate.scale, rows, progress)
        server.copy(temporary, name)
    log.info("registered %s with Ollama %s, sha256 %s", name, server.version_text, digest)
    return Registration(
        name=name,
        registered=True,
        server=server.url,
        ollama=server.version_text,
        digest=digest,
        served=served,
        bytes=kept,
        agreement=agreement,
        prompts=prompts,
        overridden=overridden,
        replaced=taken,
    )


def _reference(server: OllamaServer, candidate: Candidate) -> OllamaRenderer | None:
    """What the rows were rendered by in training: this server for the base, else the file's own template."""
    if candidate.base is None or not candidate.prompts_by_server:
        return None
    return OllamaRenderer(server, candidate.base_name, context=candidate.context)


def _objections(candidate: Candidate, *, force: bool) -> list[str]:
    found = gate_failures(candidate.record)
    if found and not force:
        raise RegistrationError(f"{'; '.join(found)}; --force registers it all the same", override="--force")
    return found


def _check_name(server: OllamaServer, name: str, candidate: Candidate, *, replace: bool) -> bool:
    """Whether the name is in use. Raises RegistrationError where that forbids to take it."""
    if candidate.base is not None:
        refuse_base(name, candidate.base_name)
    return refuse_taken(server, name, replace=replace)


def refuse_base(name: str, base_name: str) -> None:
    """Raises RegistrationError where both name the same model in Ollama."""
    if full_name(name) == full_name(base_name):
        raise RegistrationError(f"{name}: is the base itself; choose another name for the tuned model")


def refuse_taken(server: OllamaServer, name: str, *, replace: bool) -> bool:
    """Whether the name is in use. Raises RegistrationError where it may not be replaced, UsageError for no name."""
    parts_of(name)
    taken = server.holds(name)
    if taken and not replace:
        raise RegistrationError(f"{name}: in use in Ollama; choose another name, or replace that model with --replace")
    return taken


def _check_file(candidate: Candidate, digest: str) -> None:
    judged = candidate.record.provenance.hashes.get(candidate.file.name)
    if digest != judged:
        raise RegistrationError(
            f"{candidate.file}: not the file that was judged (its sha256 differs from fine_tuning_metadata.json); "
            "tune again"
        )


@contextlib.contextmanager
def _removed_at_the_end(server: OllamaServer, temporary: str) -> Iterator[None]:
    """The temporary name goes, however the block ends; also one that a killed run has left."""
    server.delete(temporary)
    try:
        yield
    finally:
        with contextlib.suppress(ExpertuneError):  # must not hide why the block ended
            server.delete(temporary)


def _dress(server: OllamaServer, candidate: Candidate, *, folds_system: bool) -> ServingConfig:
    """A template without a system role takes the text from the user's message, so that the model brings none along."""
    shown = server.show(candidate.base_name) if candidate.base is not None else {}
    return ServingConfig(candidate.base, shown, None if folds_system else candidate.system)


def _make(
    server: OllamaServer, temporary: str, file: Path, digest: str, dress: ServingConfig, progress: Progress
) -> None:
    blocks = -(-file.stat().st_size // UPLOAD_BLOCK)
    with progress.stage("Uploading to Ollama", total=blocks, unit="MiB") as stage:
        server.upload(file, f"sha256:{digest}", lambda count: stage.advance())
    with progress.stage("Creating the model in Ollama") as stage:
        for line in server.stream("/api/create", create_request(temporary, file.name, f"sha256:{digest}", dress)):
            log.info("ollama: %s", line.get("status"))
            stage.advance()


def _check_model(
    server: OllamaServer, temporary: str, file: Path, digest: str, dress: ServingConfig
) -> tuple[str, str]:
    """Which blob is served, and how its bytes compare.

    Raises RegistrationError where the model is not the file in its base's dress.
    """
    shown = server.show(temporary)
    made = model.shown(temporary, shown)
    served = model.served_digest(made)
    if served is None:
        raise RegistrationError("Ollama does not say which file the new model is; nothing was registered")
    kept = check_bytes(served, _blob(server, temporary), file, digest)
    if wrong := differences(made, shown, dress):
        raise RegistrationError(
            f"in Ollama the new model differs from its base in {', '.join(wrong)}; nothing was registered"
        )
    return served, kept


def _blob(server: OllamaServer, model: str) -> Path | None:
    """The file that the server serves, None where it is not on this disk or may not be read."""
    try:
        return locate(model, server).path
    except FineTuningNotSupportedError:
        return None


def _sample(by_file: LlamaCppEngine, candidate: Candidate) -> list[Example]:
    """Held-out rows that the context has room for, a few of each label. Raises RegistrationError for none."""
    rows = [
        row
        for row in sample(candidate.rows, SAMPLE)
        if by_file.count_tokens(by_file.render(row.messages)) + ROOM <= by_file.context
    ]
    if not rows:
        raise RegistrationError("no held-out row fits into the context, so the model cannot be proven in Ollama")
    return rows


def _check_prompts(
    by_server: OllamaEngine, by_file: LlamaCppEngine, candidate: Candidate, rows: list[Example], progress: Progress
) -> int:
    """How many prompts are the same, in text and in tokens. Raises RegistrationError."""
    talks = probes(candidate.system)
    with_system = {name: talk for name, talk in talks.items() if talk[0]["role"] == "system"}
    asked = [(row.id, row.messages) for row in rows]
    with progress.stage("Comparing prompts", total=len(talks) + len(rows)) as stage:
        expected = {name: by_file.render(talk) for name, talk in with_system.items()}
        expected_rows = [by_file.render(messages) for _, messages in asked]
        if candidate.prompts_by_server:
            by_server.server.unload(candidate.base_name)  # one model in memory is enough
        check_renders(expected, by_server.render, with_system)
        check_rows(expected_rows, by_server.render, asked)
        if not by_server.folds_system:
            # the system text that the model brings along is the one that it was tuned under
            alone = [(row.id, [message for message in row.messages if message["role"] != "system"]) for row in rows]
            check_rows(expected_rows, by_server.render, alone)
        prompts = {name: by_server.render(talk) for name, talk in talks.items()}
        check_tokens(by_server.count_tokens, by_file.count_tokens, prompts)
        stage.advance(len(talks) + len(rows))
    return len(talks) + len(rows)


def _check_ratings(
    by_server: OllamaEngine, by_file: LlamaCppEngine, scale: RatingScale, rows: list[Example], progress: Progress
) -> ServedAgreement:
    with progress.stage("Rating by the file and in Ollama", total=2 * len(rows), unit="rows") as stage:
        first = rate_examples(by_file, rows, scale, on_row=lambda done, total: stage.advance())
        try:
            second = rate_examples(by_server, rows, scale, on_row=lambda done, total: stage.advance())
        except PartOfCharacterError:
            second = None
            stage.advance(len(rows))
        return check_ratings(by_server, rows, first, second, scale, output_schema(list(scale.labels)))
