"""A finished run's folder → a model in Ollama; what came of it is told in the run's metadata."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import make_config
from ..engine.locate import Located, locate
from ..engine.ollama.server import OllamaServer
from ..errors import ExpertuneError, Interrupted, OutputError, RegistrationError, UsageError
from ..files import sha256
from ..progress import Progress
from ..rate.artifact import ANSWER_ROOM, prompts_by_server
from ..ratings.dataset import Dataset, load_dataset
from ..register.register import Candidate, Registered, register
from ..renamed_settings import current_settings

log = logging.getLogger("expertune")


@dataclass(frozen=True)
class RegistrationTarget:
    """The name that a tuned file is to have in Ollama, and what the user allows for it."""

    name: str
    replace: bool = False
    force: bool = False
    allow_remote: bool = False

    def command(self, folder: Path, *, override: str = "", moved: bool = False) -> str:
        """What to type to register the file of `folder`; `moved`: its rows are not where the run read them."""
        chosen = [f"--{name.replace('_', '-')}" for name in ("replace", "force", "allow_remote") if getattr(self, name)]
        flags = [*chosen, *([override] if override and override not in chosen else [])]
        rows = ["--input", "FILE"] if moved else []
        return shlex.join(["expertune", "register", str(folder), "--name", self.name, *rows, *flags])


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a run left. Raises UsageError where there is none."""
    path = folder / outputs.METADATA
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "processing_info" not in content:
        raise UsageError(f"{path}: cannot be read; give the output folder of a finished run")
    return {**content, "settings": current_settings(content["settings"], warn=False)}


def prepared_again(folder: Path, metadata: Mapping[str, Any], data: Any = None) -> Dataset:
    """The rows of a finished run, split as then; `data` in place of the path that the run remembers.

    Raises UsageError where these are not the rows of the run, DatasetError where they cannot be read.
    """
    kept = outputs.read_config(folder / outputs.TRAINING_CONFIG)
    source = data if data is not None else Path(str(kept["run"].get("input")))
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"{source}: the rows that the run was judged on are not there; name them with --input")
    config = make_config(metadata["settings"])
    prepared = load_dataset(source, metadata["rating_mapping"], metadata["processing_info"]["target_topics"], config)
    if prepared.input_sha256 != metadata["provenance"]["hashes"]["input_rows"]:
        raise UsageError(f"{prepared.source}: not the rows that this run was made from; name them with --input")
    return prepared


def register_result(
    target: RegistrationTarget, folder: Path, metadata: dict[str, Any], prepared: Dataset, progress: Progress
) -> bool:
    """Register what a run has just made. False where it was not: its metadata say why, and how to go on.

    Raises Interrupted, which carries the metadata.
    """
    if "fine_tuning_info" not in metadata:
        _refuse_model_set(target, folder, metadata)
        return False
    try:
        register_folder(target, folder, metadata, prepared, progress)
    except Interrupted as stopped:
        stopped.metadata = metadata
        raise
    except ExpertuneError:
        return False
    return True


def register_folder(
    target: RegistrationTarget, folder: Path, metadata: dict[str, Any], prepared: Dataset, progress: Progress
) -> Registered:
    """Register a folder's tuned file; the metadata then tell of it, in memory and on disk, also where it was refused.

    Raises RegistrationError, Interrupted on Ctrl-C, and what the server's requests raise.
    """
    name, moved = target.name, not Path(prepared.source).is_file()
    try:
        with OllamaServer(allow_remote=target.allow_remote) as server:
            candidate = _candidate(server, folder, metadata, prepared)
            made = register(server, name, candidate, progress, replace=target.replace, force=target.force)
    except KeyboardInterrupt:
        command = target.command(folder, moved=moved)
        _tell(folder, metadata, _refused(name, "stopped", command))
        raise Interrupted(f"stopped; Ollama is as it was and the tuned file is whole: go on with {command}") from None
    except Exception as error:
        known = isinstance(error, ExpertuneError)
        reason = str(error) if known else f"unexpected {type(error).__name__}; add --debug to see where"
        override = error.override if isinstance(error, RegistrationError) else ""
        log.error("not registered as %s: %s", name, reason)
        _tell(folder, metadata, _refused(name, reason, target.command(folder, override=override, moved=moved)))
        if known:
            raise
        raise RegistrationError(reason) from error
    _tell(folder, metadata, made.to_dict())
    return made


def _refuse_model_set(target: RegistrationTarget, folder: Path, metadata: dict[str, Any]) -> None:
    """A model set is no file that Ollama could serve."""
    reason = "the run made a model set, and only a tuned file can be registered"
    if metadata["fallback_reason"] is None:
        reason += " (--approach tune keeps to it)"
    log.warning("not registered as %s: %s", target.name, reason)
    command = shlex.join(["expertune", "rate", "FILE", "--with", str(folder)])
    _tell(folder, metadata, _refused(target.name, reason, command))


def _refused(name: str, reason: str, command: str) -> dict[str, Any]:
    return {"name": name, "registered": False, "reason": reason, "command": command}


def _tell(folder: Path, metadata: dict[str, Any], registration: Mapping[str, Any]) -> None:
    """Put the outcome into the metadata. A refusal does not hide an earlier success: that model is still there."""
    if registration["registered"] or not (metadata.get("registration") or {}).get("registered"):
        metadata["registration"] = dict(registration)
        try:
            outputs.write_metadata(folder, metadata)
        except OutputError as error:  # the disk is full: the caller's metadata still say it
            log.error("%s", error)


def _candidate(server: OllamaServer, folder: Path, metadata: Mapping[str, Any], prepared: Dataset) -> Candidate:
    model, config = metadata["processing_info"]["model_name"], make_config(metadata["settings"])
    facts = metadata["provenance"]["base"] or {}
    base = _base(server, model, metadata) if facts.get("source") == "ollama" else None
    return Candidate(
        file=folder / outputs.MODEL,
        base=base,
        base_name=model,
        prompts_by_server=prompts_by_server(metadata),
        system=prepared.system,
        rows=prepared.examples["test"],
        scale=prepared.scale,
        context=config.max_tokens + ANSWER_ROOM,
        threads=config.threads,
        metadata=metadata,
    )


def _base(server: OllamaServer, model: str, metadata: Mapping[str, Any]) -> Located:
    """The base as this server holds it now. Raises RegistrationError where it is another file than was tuned."""
    found = locate(model, server)
    if sha256(found.path) != metadata["provenance"]["hashes"]["base"]:
        raise RegistrationError(
            f"{model}: in Ollama this is no longer the file that was tuned; tune again, so that the new model is "
            "compared with its own base"
        )
    return found
