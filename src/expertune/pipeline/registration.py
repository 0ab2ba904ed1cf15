"""A finished run's folder → a model in Ollama; what came of it is told in the run's metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import make_config
from ..engine.locate import Located, locate
from ..engine.ollama_server import OllamaServer
from ..errors import ExpertuneError, Interrupted, RegistrationError, UsageError
from ..files import sha256
from ..progress import Progress
from ..rate.product import ANSWER_ROOM, prompts_by_server
from ..register.register import Candidate, Registered, register
from . import outputs
from .prepare import Prepared, prepare

log = logging.getLogger("expertune")


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a run left. Raises UsageError where there is none."""
    path = folder / outputs.METADATA
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "processing_info" not in content:
        raise UsageError(f"{path}: cannot be read; give the output folder of a finished run")
    return content


def prepared_again(folder: Path, metadata: Mapping[str, Any], data: Any = None) -> Prepared:
    """The rows of a finished run, split as then; `data` in place of the path that the run remembers.

    Raises UsageError where these are not the rows of the run, DatasetError where they cannot be read.
    """
    kept = outputs.read_config(folder / outputs.TRAINING_CONFIG)
    source = data if data is not None else Path(str(kept["run"].get("input")))
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"{source}: the rows that the run was judged on are not there; name them with --input")
    config = make_config(metadata["settings"])
    prepared = prepare(source, metadata["rating_mapping"], metadata["processing_info"]["target_topics"], config)
    if prepared.input_sha256 != metadata["provenance"]["hashes"]["input_rows"]:
        raise UsageError(f"{prepared.source}: not the rows that this run was made from; name them with --input")
    return prepared


def register_folder(
    server: OllamaServer,
    name: str,
    folder: Path,
    metadata: dict[str, Any],
    prepared: Prepared,
    progress: Progress,
    *,
    replace: bool = False,
    force: bool = False,
) -> Registered:
    """Register a folder's tuned file as `name`; the metadata on disk then tell of it, also where it was refused.

    Raises RegistrationError, Interrupted on Ctrl-C, and what the server's requests raise.
    """
    try:
        candidate = _candidate(server, folder, metadata, prepared)
        made = register(server, name, candidate, progress, replace=replace, force=force)
    except ExpertuneError as error:
        log.error("not registered as %s: %s", name, error)
        _tell(folder, metadata, {"name": name, "registered": False, "reason": str(error)})
        raise
    except KeyboardInterrupt:
        _tell(folder, metadata, {"name": name, "registered": False, "reason": "stopped"})
        raise Interrupted(
            f"stopped; Ollama is as it was and the tuned file is whole: go on with expertune register {folder} "
            f"--name {name}"
        ) from None
    _tell(folder, metadata, made.to_dict())
    return made


def tell_unregistered(folder: Path, metadata: dict[str, Any], name: str) -> None:
    """A run that made a model set has nothing to register: said in the log and in the metadata."""
    reason = "the run made a model set; --approach tune keeps to the tuned file"
    log.warning("not registered as %s: %s", name, reason)
    _tell(folder, metadata, {"name": name, "registered": False, "reason": reason})


def _tell(folder: Path, metadata: dict[str, Any], registration: Mapping[str, Any]) -> None:
    """A refusal does not hide an earlier success: that model is still there."""
    if registration["registered"] or not (metadata.get("registration") or {}).get("registered"):
        metadata["registration"] = dict(registration)
        outputs.write_metadata(folder, metadata)


def _candidate(server: OllamaServer, folder: Path, metadata: Mapping[str, Any], prepared: Prepared) -> Candidate:
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
