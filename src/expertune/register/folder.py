"""Register the tuned model of a run with Ollama, and write the outcome to the run's record."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import Config, with_changes
from ..engine.locate import Located, locate
from ..engine.ollama.server import OllamaServer
from ..errors import ExpertuneError, Interrupted, OutputError, RegistrationError, UsageError
from ..files import remove_leftovers, sha256
from ..progress import Progress
from ..rate.artifact import ANSWER_ROOM
from ..ratings.dataset import Dataset, load_dataset
from ..record import RunRecord
from ..record.registration import Registration
from .register import Candidate, refuse_base, refuse_taken, register

log = logging.getLogger("expertune")


@dataclass(frozen=True)
class RegistrationTarget:
    """Requested name in Ollama, and the user's permissions."""

    name: str
    replace: bool = False
    force: bool = False
    allow_remote: bool = False

    def command(self, folder: Path, *, override: str = "", moved: bool = False) -> str:
        """The command that registers the file of `folder`; `moved` adds --input, since the dataset is not there."""
        chosen = [f"--{name.replace('_', '-')}" for name in ("replace", "force", "allow_remote") if getattr(self, name)]
        flags = [*chosen, *([override] if override and override not in chosen else [])]
        rows = ["--input", "FILE"] if moved else []
        return shlex.join(["expertune", "register", str(folder), "--name", self.name, *rows, *flags])


def check_target(target: RegistrationTarget, model: str, config: Config) -> None:
    """Refuse an unusable name before hours of work.

    Raises UsageError, RegistrationError or EngineError.
    """
    if config.approach == "model-set":
        raise UsageError("register: a model set cannot be registered; leave out the name, or choose another approach")
    with OllamaServer(allow_remote=target.allow_remote) as server:
        if not Path(model).is_file():
            refuse_base(target.name, model)
        refuse_taken(server, target.name, replace=target.replace)


def load_dataset_again(folder: Path, record: RunRecord, data: Any = None) -> Dataset:
    """Load the dataset of a finished run with the same split; `data` replaces the path in the run's record.

    Raises UsageError if these are not the records of the run, DatasetError if they cannot be read.
    """
    saved = outputs.read_config(folder / outputs.TRAINING_CONFIG)
    source = data if data is not None else Path(str(saved.run.get("input")))
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"{source}: the run's dataset is not there; give its path with --input")
    mapping = {**record.rating_mapping, **record.rating_codes}
    sheet = record.config.sheet if isinstance(source, Path) and source.suffix.lower() == ".xlsx" else None
    config = with_changes(record.config, sheet=sheet, unlabelled=None)  # only training needs those records
    dataset = load_dataset(source, mapping, record.processing_info.target_topics, config)
    if dataset.input_sha256 != record.provenance.hashes["input_rows"]:
        raise UsageError(f"{dataset.source}: not the dataset of this run; give its path with --input")
    return dataset.with_codes(record.branch)


def register_result(
    target: RegistrationTarget | None, record: RunRecord, dataset: Dataset, folder: Path, progress: Progress
) -> RunRecord:
    """Register the product of a run if requested; a refusal is recorded with the command to continue with.

    Raises Interrupted, which holds the record's dump.
    """
    if target is None:
        return record
    if record.fine_tuning_info is None:
        return _write(record, _refuse_model_set(target, record, folder), folder)
    return _attempt(target, record, dataset, folder, progress)[0]


def register_again(
    target: RegistrationTarget, record: RunRecord, dataset: Dataset, folder: Path, progress: Progress
) -> Registration:
    """Register the tuned model of a finished run; the record is updated, also after a refusal.

    Raises RegistrationError, Interrupted on Ctrl-C, and what the server's requests raise.
    """
    _, outcome = _attempt(target, record, dataset, folder, progress)
    if isinstance(outcome, ExpertuneError):
        raise outcome
    return outcome


def _attempt(
    target: RegistrationTarget, record: RunRecord, dataset: Dataset, folder: Path, progress: Progress
) -> tuple[RunRecord, Registration | ExpertuneError]:
    """The record with the outcome, also on disk, and the registration or why there is none. Raises Interrupted."""
    try:
        registration = register_folder(target, record, dataset, folder, progress)
    except (ExpertuneError, KeyboardInterrupt) as error:
        refusal = _refusal(target, error, folder, moved=not Path(dataset.source).is_file())
        refused = _write(record, refusal, folder)
        if isinstance(error, KeyboardInterrupt):
            raise _stopped(refused, refusal) from None
        return refused, error
    return _write(record, registration, folder), registration


def register_folder(
    target: RegistrationTarget, record: RunRecord, dataset: Dataset, folder: Path, progress: Progress
) -> Registration:
    """Register the tuned model of `folder`; unexpected errors become RegistrationError."""
    try:
        with OllamaServer(allow_remote=target.allow_remote) as server:
            candidate = _candidate(server, folder, record, dataset)
            return register(server, target.name, candidate, progress, replace=target.replace, force=target.force)
    except ExpertuneError as error:
        log.error("not registered as %s: %s", target.name, error)
        raise
    except Exception as error:
        reason = f"unexpected {type(error).__name__}; add --debug to see where"
        log.error("not registered as %s: %s", target.name, reason)
        raise RegistrationError(reason) from error


def _refusal(
    target: RegistrationTarget, error: ExpertuneError | KeyboardInterrupt, folder: Path, *, moved: bool
) -> Registration:
    reason = "stopped" if isinstance(error, KeyboardInterrupt) else str(error)
    override = error.override if isinstance(error, RegistrationError) else ""
    command = target.command(folder, override=override, moved=moved)
    return Registration(name=target.name, registered=False, reason=reason, command=command)


def _stopped(refused: RunRecord, refusal: Registration) -> Interrupted:
    """The command is the refusal's: `refused` may still hold an earlier success, which has none."""
    stopped = Interrupted(
        f"stopped; Ollama's models are unchanged and the tuned file is complete; continue with {refusal.command}"
    )
    stopped.metadata = refused.to_dict()
    return stopped


def _refuse_model_set(target: RegistrationTarget, record: RunRecord, folder: Path) -> Registration:
    """The refusal for a model set, which is not a file that Ollama can serve."""
    reason = "the run made a model set, and only a tuned model can be registered"
    if record.fallback_reason is None:
        reason += " (--approach tune always tunes)"
    log.warning("not registered as %s: %s", target.name, reason)
    command = shlex.join(["expertune", "rate", "FILE", "--with", str(folder)])
    return Registration(name=target.name, registered=False, reason=reason, command=command)


def _write(record: RunRecord, registration: Registration, folder: Path) -> RunRecord:
    """Update the record, also on disk. A refusal does not replace an earlier success, whose model still exists."""
    remove_leftovers(folder, outputs.METADATA, outputs.REGISTRATION_SAMPLE)
    before = record.registration
    if not registration.registered and before is not None and before.registered:
        return record
    changed = record.model_copy(update={"registration": registration})
    try:
        changed.write(folder)
    except OutputError as error:  # full disk: the returned record still has the outcome
        log.error("%s", error)
    return changed


def _candidate(server: OllamaServer, folder: Path, record: RunRecord, dataset: Dataset) -> Candidate:
    model, config, base = record.processing_info.model_name, record.config, record.provenance.base
    return Candidate(
        file=folder / outputs.MODEL,
        base=_base(server, model, record) if base is not None and base.source == "ollama" else None,
        base_name=model,
        prompts_by_server=record.provenance.prompts_by_server,
        system=dataset.system,
        rows=dataset.examples.test,
        scale=dataset.scale,
        context=config.max_tokens + ANSWER_ROOM,
        threads=config.threads,
        record=record,
    )


def _base(server: OllamaServer, model: str, record: RunRecord) -> Located:
    """Locate the base in this server. Raises RegistrationError if it is not the file that was tuned."""
    located = locate(model, server)
    if sha256(located.path) != record.provenance.hashes["base"]:
        raise RegistrationError(
            f"{model}: in Ollama this is no longer the file that was tuned; tune again, so that the new model is "
            "compared with its own base"
        )
    return located
