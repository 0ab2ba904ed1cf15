"""Find the GGUF file of a model: by path, by name in a running Ollama server, or by name in its models folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import EngineError, ExpertuneError, FineTuningNotSupportedError, UsageError
from ..gguf.read import read_metadata
from .ollama import disk
from .ollama.disk import models_folders
from .ollama.host import host_url, is_this_machine
from .ollama.model import OllamaModel, ServingTexts, served_digest, shown
from .ollama.server import OllamaServer, full_name

# Architectures of Ollama's own that it translates when it serves them (Ollama 0.33.0-rc2,
# llama/compat/llama-ollama-compat.cpp)
# or served with an engine of its own (mllama, solar); llama.cpp knows none of these names.
ONLY_OLLAMAS = frozenset(
    ("deepseekocr", "glm4moelite", "glmocr", "gptoss", "mllama", "nemotron_h_omni", "olmo3", "qwen25vl", "solar")
)


@dataclass(frozen=True)
class Located(ServingTexts):
    """A model file. `source` is "file" or "ollama"; `server` is the URL of the server that named the file.

    `notes` are lines that a user should read although the model can be used.
    """

    path: Path
    name: str
    source: str
    server: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed(disk.ManifestEntry):
    """A model that Ollama holds: its file in `located`, else the `reason` why not."""

    located: Located | None = None
    reason: str | None = None


def locate(model: str, server: OllamaServer | None = None) -> Located:
    """Find the GGUF that `model` names: a path, or an Ollama name such as llama2, llama2:13b or team/model.

    With a `server` a name is what that server holds; without one the models folder on this disk is read.
    Raises UsageError (nothing of that name; the nearest names), FineTuningNotSupportedError (a model whose file cannot
    be tuned or had), ModelFileError (a damaged GGUF or manifest), EngineError (the server fails).
    """
    try:
        path = Path(model).expanduser()
    except RuntimeError:
        path = Path(model)
    if os.path.isfile(path):  # noqa: PTH113 - never raises, whatever the text
        return Located(path, path.stem, "file", notes=_checked(path))
    if os.path.isdir(path):  # noqa: PTH112
        raise UsageError(f"{model}: a folder; give a GGUF file or the name of an Ollama model")
    if path.suffix.lower() == ".gguf" or path.is_absolute():
        raise UsageError(f"{model}: no such file")
    disk.parts_of(model)
    return _from_folders(model) if server is None else _from_server(model, server)


def listed(server: OllamaServer | None = None) -> list[Listed]:
    """List every model of the server, else of the folders on this disk; a broken one never hides the others."""
    if server is not None:
        return [_listed(each, partial(_from_server, server=server)) for each in server.models()]
    found: dict[disk.Parts, disk.ManifestEntry] = {}
    for folder in models_folders():
        if disk.readable(folder):
            found = {parts: disk.entry(folder, parts) for parts in disk.models_in(folder)} | found
    return [_listed(found[parts], _from_folders) for parts in sorted(found)]


def _listed(entry: disk.ManifestEntry, find: Callable[[str], Located]) -> Listed:
    facts = {**vars(entry), "name": entry.name.removesuffix(":latest")}
    try:
        return Listed(**facts, located=find(entry.name))
    except ExpertuneError as error:
        return Listed(**facts, reason=str(error))


# --- through the server ---


def _from_server(model: str, server: OllamaServer) -> Located:
    try:
        show = server.show(model)
    except UsageError:
        names = [full_name(each.name).removesuffix(":latest") for each in server.models()]
        raise _no_such_model(model, names, f"in Ollama at {server.url}") from None
    try:
        found = shown(model, show)
    except disk.DAMAGE:
        raise EngineError(
            f"{model}: Ollama at {server.url} describes it in an unknown form; update Expertune"
        ) from None
    _check_model(found)
    return _located(found, _on_this_disk(found, server.url), server.url)


def _on_this_disk(model: OllamaModel, url: str) -> Path:
    """The file under the server's path, else the blob of that name in a models folder here."""
    theirs = Path(model.weights[0])
    digest = served_digest(model)
    local = is_this_machine(url)
    places = [theirs] if local else []
    places += [folder / "blobs" / f"sha256-{digest}" for folder in models_folders()] if digest else []
    for place in places:
        if _can_read(place):
            return place
    # the server's image keeps its models under /root, which outside the container belongs to another user
    if local and _can_read(theirs) is False and theirs.parts[:2] != ("/", "root"):
        raise disk.may_not_read(theirs.parent.parent)
    where = "in its container, or where only another user may read" if local else "on its own machine"
    raise FineTuningNotSupportedError(
        f"{model.name}: Ollama at {url} keeps it {where} ({theirs}); mount its models folder here and set "
        "OLLAMA_MODELS to it, or give the path of a copy of the GGUF"
    )


def _can_read(path: Path) -> bool | None:
    """None where there is no such file, False where it or its folder may not be read."""
    try:
        return os.access(path, os.R_OK) if disk.is_file(path) else None
    except PermissionError:
        return False


# --- in the folders ---


def _from_folders(model: str) -> Located:
    wanted = disk.parts_of(model)
    names: list[str] = []
    refused: list[Path] = []
    for folder in models_folders():
        located = _from_folder(model, folder, wanted, names, refused)
        if located is not None:
            return located
    if refused:
        raise disk.may_not_read(refused[0])
    raise _no_such_model(model, names, "in the models folders on this disk")


def _from_folder(model: str, folder: Path, wanted: disk.Parts, names: list[str], refused: list[Path]) -> Located | None:
    """The model where this folder has it; else its models go to `names`, or it to `refused` if it may not be read."""
    try:
        held = disk.models_in(folder)
        parts = disk.matching(wanted, held)
        if parts is not None:
            found = disk.stored(model, folder, parts)
            _check_model(found)
            if _can_read(path := Path(found.weights[0])):
                return _located(found, path, None)
            raise PermissionError
        names += map(disk.name_of, held)
    except PermissionError:
        refused.append(folder)
    return None


# --- shared by both ---


def _located(model: OllamaModel, path: Path, server: str | None) -> Located:
    texts = {each.name: getattr(model, each.name) for each in fields(ServingTexts)}
    return Located(path, model.name, "ollama", server, _checked(path), **texts)


def _no_such_model(model: str, names: Iterable[str], where: str) -> UsageError:
    names = sorted(set(names))
    if names:
        near = difflib.get_close_matches(model, names, n=3, cutoff=0.4) or names[:3]
        line = f"{model}: no such file or Ollama model; nearest: {', '.join(near)}"
    else:
        line = (
            f"{model}: neither a file nor an Ollama model (there are none {where}); get one with `ollama pull`, "
            "give the path of a GGUF, or set OLLAMA_MODELS to the folder that the Ollama server uses"
        )
    return UsageError(line + _other_machine())


def _other_machine() -> str:
    """A hint at the server on another machine, which was not asked and may have the model."""
    try:
        url = host_url()
    except UsageError as error:
        return f"; OLLAMA_HOST was not used ({error})"
    return "" if is_this_machine(url) else f"; OLLAMA_HOST names another machine ({url}): ask it with --allow-remote"


def _check_model(model: OllamaModel) -> None:
    """Raise FineTuningNotSupportedError for each kind of model that has no GGUF of its own here."""
    if model.remote_host:
        reason = (
            "runs in Ollama's cloud, its weights are not on this machine; choose one that `ollama pull` brings here"
        )
    elif model.format != "gguf":
        reason = f"stored as {model.format} (MLX), not as GGUF; choose the GGUF variant of this model"
    elif model.vision:
        reason = "a vision model (it has a projector); choose its text-only variant"
    elif model.adapters:
        reason = "already a base with an adapter; choose the base it was made from"
    elif not model.weights:
        reason = "Ollama names no file of weights for it; pull or create it again"
    elif len(model.weights) > 1:
        reason = (
            f"its weights are split into {len(model.weights)} files; join them with llama-gguf-split --merge and give "
            "the path of the joined file"
        )
    else:
        return
    raise FineTuningNotSupportedError(f"{model.name}: {reason}")


def _checked(path: Path) -> tuple[str, ...]:
    """Notes on a file of weights. Raises FineTuningNotSupportedError for another kind of GGUF, ModelFileError."""
    metadata = read_metadata(path)
    architecture = str(metadata.get("general.architecture", ""))
    kind = "projector" if architecture == "clip" else metadata.get("general.type", "model")
    if kind != "model":
        raise FineTuningNotSupportedError(f"{path}: a GGUF of kind {kind}, not a language model; give the model's file")
    if architecture in ONLY_OLLAMAS or any(key.startswith(f"{architecture}.vision.") for key in metadata):
        raise FineTuningNotSupportedError(
            f"{path}: in Ollama's own older form ({architecture}), which llama.cpp alone does not load; pull it again "
            "with a newer Ollama or choose a GGUF from elsewhere"
        )
    return tuple(_notes(metadata))


def _notes(metadata: Mapping[str, Any]) -> Iterable[str]:
    if "general.file_type" not in metadata:
        yield (
            "its header has no general.file_type: Ollama shows its quantisation as unknown and would refuse to "
            "quantise it; the tuned file carries the key"
        )
    if metadata.get("tokenizer.ggml.model") == "gpt2" and metadata.get("tokenizer.ggml.pre", "") in ("", "default"):
        yield (
            "its header names no pre-tokenizer (tokenizer.ggml.pre): Ollama corrects this for Llama 3 when it serves "
            "the file and llama.cpp does not, so the two may split text differently; pull the model again if you can"
        )
