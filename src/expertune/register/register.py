"""Registration with Ollama: upload, create under a temporary name, verify, then copy to the final name."""

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
from ..rate.registered_sample import write_sample
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..record import RunRecord
from ..record.registration import Registration, ServedAgreement
from .create import ServingConfig, create_request, differences, unproven
from .decisions import check_decisions
from .preflight import gate_failures
from .verify import Tolerance, check_bytes, check_ratings, sample
from .verify_prompts import check_renders, check_rows, check_tokens, probes

log = logging.getLogger("expertune")

SAMPLE = 24  # test records that the registered model rates again
ROOM = 64  # tokens of an answer


@dataclass(frozen=True)
class Candidate:
    """Tuned file to register, and the facts that the registered model is verified against.

    `base` is None if this server does not have the base; `prompts_by_server` is True if the server rendered the
    training prompts. `context` is the token limit of one request, `rows` are test records.
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
    """Create `name` in Ollama from the candidate's file. After any error `name` is unchanged.

    Raises RegistrationError (gate failed, name in use, verification failed), EngineError, OutputError and UsageError.
    """
    overridden = tuple(_gate(candidate, force=force))
    if candidate.base is not None:
        refuse_base(name, candidate.base_name)
    taken = refuse_taken(server, name, replace=replace)
    digest = sha256(candidate.file)
    _check_file(candidate, digest)
    reference = _reference(server, candidate)
    temporary = unproven(name)
    with (
        LlamaCppEngine(
            candidate.file, context=candidate.context, threads=candidate.threads, renderer=reference
        ) as by_file,
        _deleted_at_the_end(server, temporary),
    ):
        rows = _sample(by_file, candidate)
        serving = _serving_config(server, candidate, folds_system=by_file.folds_system)
        _create(server, temporary, candidate.file, digest, serving, progress)
        served, kept = _check_model(server, temporary, candidate.file, digest, serving)
        with OllamaEngine(
            server,
            temporary,
            context=candidate.context,
            file=candidate.file,
            threads=candidate.threads,
            fallback=False,  # the file must not be compared with itself
        ) as by_server:
            prompts = _check_prompts(by_server, by_file, candidate, rows, progress)
            agreement = _check_ratings(by_server, by_file, candidate, rows, served, progress)
            decisions = check_decisions(
                server, temporary, by_file, candidate.file, rows, candidate.scale, _tolerance(candidate)
            )
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
        decisions=decisions,
        overridden=overridden,
        replaced=taken,
    )


def _reference(server: OllamaServer, candidate: Candidate) -> OllamaRenderer | None:
    """Renderer of the training prompts: this server for the base; None for the file's own template."""
    if candidate.base is None or not candidate.prompts_by_server:
        return None
    return OllamaRenderer(server, candidate.base_name, context=candidate.context)


def _gate(candidate: Candidate, *, force: bool) -> list[str]:
    """Gate failures that `force` overrides. Raises RegistrationError for any without it."""
    failures = gate_failures(candidate.record)
    if failures and not force:
        raise RegistrationError(f"{'; '.join(failures)}; --force registers it anyway", override="--force")
    return failures


def refuse_base(name: str, base_name: str) -> None:
    """Raise RegistrationError if both names are the same model in Ollama."""
    if full_name(name) == full_name(base_name):
        raise RegistrationError(f"{name}: is the base itself; choose another name for the tuned model")


def refuse_taken(server: OllamaServer, name: str, *, replace: bool) -> bool:
    """Check if the name is in use. Raises RegistrationError if it may not be replaced, UsageError if it is invalid."""
    parts_of(name)
    taken = server.holds(name)
    if taken and not replace:
        raise RegistrationError(
            f"{name}: in use in Ollama; choose another name, or overwrite that model with --replace"
        )
    return taken


def _check_file(candidate: Candidate, digest: str) -> None:
    evaluated = candidate.record.provenance.hashes.get(candidate.file.name)
    if digest != evaluated:
        raise RegistrationError(
            f"{candidate.file}: not the file that was evaluated (its sha256 differs from fine_tuning_metadata.json); "
            "tune again"
        )


@contextlib.contextmanager
def _deleted_at_the_end(server: OllamaServer, temporary: str) -> Iterator[None]:
    """Delete the temporary model when the block ends, and one that a killed run has left before it begins."""
    server.delete(temporary)
    try:
        yield
    finally:
        with contextlib.suppress(ExpertuneError):  # must not mask the error that ended the block
            server.delete(temporary)


def _serving_config(server: OllamaServer, candidate: Candidate, *, folds_system: bool) -> ServingConfig:
    """The base's serving configuration; without a system prompt if the template folds it into the user message."""
    shown = server.show(candidate.base_name) if candidate.base is not None else {}
    return ServingConfig(candidate.base, shown, None if folds_system else candidate.system)


def _create(
    server: OllamaServer, temporary: str, file: Path, digest: str, serving: ServingConfig, progress: Progress
) -> None:
    blocks = -(-file.stat().st_size // UPLOAD_BLOCK)
    with progress.stage("Uploading to Ollama", total=blocks, unit="MiB") as stage:
        server.upload(file, f"sha256:{digest}", lambda count: stage.advance())
    with progress.stage("Creating the model in Ollama") as stage:
        for line in server.stream("/api/create", create_request(temporary, file.name, f"sha256:{digest}", serving)):
            log.info("ollama: %s", line.get("status"))
            stage.advance()


def _check_model(
    server: OllamaServer, temporary: str, file: Path, digest: str, serving: ServingConfig
) -> tuple[str, str]:
    """Digest of the served blob, and how its bytes compare with the file.

    Raises RegistrationError if weights or serving configuration differ.
    """
    shown = server.show(temporary)
    created = model.shown(temporary, shown)
    served = model.served_digest(created)
    if served is None:
        raise RegistrationError("Ollama does not say which file the new model is; nothing was registered")
    kept = check_bytes(served, _blob(server, temporary), file, digest)
    if wrong := differences(created, shown, serving):
        raise RegistrationError(
            f"in Ollama the new model differs from its base in {', '.join(wrong)}; nothing was registered"
        )
    return served, kept


def _blob(server: OllamaServer, model: str) -> Path | None:
    """The file that the server serves; None if it is not on this disk or not readable."""
    try:
        return locate(model, server).path
    except FineTuningNotSupportedError:
        return None


def _sample(by_file: LlamaCppEngine, candidate: Candidate) -> list[Example]:
    """Test records that fit the context, a few of each label. Raises RegistrationError if none does."""
    rows = [
        row
        for row in sample(candidate.rows, SAMPLE)
        if by_file.count_tokens(by_file.render(row.messages)) + ROOM <= by_file.context
    ]
    if not rows:
        raise RegistrationError("no test record fits into the context, so the model cannot be verified in Ollama")
    return rows


def _check_prompts(
    by_server: OllamaEngine, by_file: LlamaCppEngine, candidate: Candidate, rows: list[Example], progress: Progress
) -> int:
    """Compare prompts in text and tokens; returns their number. Raises RegistrationError for a difference."""
    chats = probes(candidate.system)
    with_system = {name: chat for name, chat in chats.items() if chat[0]["role"] == "system"}
    by_id = [(row.id, row.messages) for row in rows]
    with progress.stage("Comparing prompts", total=len(chats) + len(rows)) as stage:
        expected = {name: by_file.render(chat) for name, chat in with_system.items()}
        expected_rows = [by_file.render(messages) for _, messages in by_id]
        if candidate.prompts_by_server:
            by_server.server.unload(candidate.base_name)  # one model in memory is enough
        check_renders(expected, by_server.render, with_system)
        check_rows(expected_rows, by_server.render, by_id)
        if not by_server.folds_system:
            # the model's own system prompt must be that of the training
            alone = [(row.id, [message for message in row.messages if message["role"] != "system"]) for row in rows]
            check_rows(expected_rows, by_server.render, alone)
        prompts = {name: by_server.render(chat) for name, chat in chats.items()}
        check_tokens(by_server.count_tokens, by_file.count_tokens, prompts)
        stage.advance(len(chats) + len(rows))
    return len(chats) + len(rows)


def _check_ratings(
    by_server: OllamaEngine,
    by_file: LlamaCppEngine,
    candidate: Candidate,
    rows: list[Example],
    served: str,
    progress: Progress,
) -> ServedAgreement:
    """Compare the ratings, and keep the first of the server's for `expertune rate`."""
    scale, scoring, tolerance = candidate.scale, candidate.record.scoring, _tolerance(candidate)
    with progress.stage("Comparing ratings of the file and Ollama", total=2 * len(rows), unit="records") as stage:
        first = rate_examples(by_file, rows, scale, scoring=scoring, on_row=lambda done, total: stage.advance())
        try:
            second = rate_examples(by_server, rows, scale, scoring=scoring, on_row=lambda done, total: stage.advance())
        except PartOfCharacterError:
            second = None
            stage.advance(len(rows))
        agreement = check_ratings(by_server, rows, first, second, scale, output_schema(list(scale.labels)), tolerance)
    if second is not None:
        prompts = [row.record for row in rows]
        write_sample(candidate.file.parent, served, by_server.server.version_text, prompts, second)
    return agreement


def _tolerance(candidate: Candidate) -> Tolerance:
    export = candidate.record.export
    return Tolerance.of(export.noise if export else None)
