"""A model's name → its GGUF file: a path, or a name in Ollama's models folder on this disk. Needs no running server.

Layout of the folder (ollama 0.33): `manifests/<host>/<namespace>/<model>/<tag>` is JSON that names a config blob and
layers by digest; a digest `sha256:<hex>` is the file `blobs/sha256-<hex>`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FineTuningNotSupportedError, ModelFileError, UsageError
from .header import read_header

LAYER = "application/vnd.ollama.image."
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Located:
    """A model file. `source` is "file" or "ollama"; the rest is what Ollama serves with it, None where nothing."""

    path: Path
    name: str
    source: str
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def locate(model: str) -> Located:
    """The GGUF that `model` names: a path, or an Ollama name such as llama2, llama2:13b or team/model.

    Raises UsageError (nothing of that name; the nearest names), FineTuningNotSupportedError (a model whose file cannot
    be tuned, or a folder that may not be read), ModelFileError (a damaged GGUF or manifest).
    """
    path = Path(model).expanduser()
    if path.is_file():
        _check_kind(path, read_header(path))
        return Located(path, path.stem, "file")
    if path.is_dir():
        raise UsageError(f"{model}: a folder; give a GGUF file or the name of an Ollama model")
    if path.suffix.lower() == ".gguf" or path.is_absolute():
        raise UsageError(f"{model}: no such file")
    return _in_ollama(model)


def models_folders() -> list[Path]:
    """Where Ollama keeps models: its variable, this user's folder, the Linux service's folder."""
    variable = os.environ.get("OLLAMA_MODELS")
    folders = [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return [Path(variable).expanduser(), *folders] if variable else folders


def _in_ollama(model: str) -> Located:
    parts = _parts(model)
    found: list[str] = []
    refused: list[Path] = []
    for folder in models_folders():
        located, names = _look(model, folder, parts, refused)
        if located is not None:
            return located
        found += names
    if refused:
        raise FineTuningNotSupportedError(_how_to_read(refused[0]))
    if not found:
        raise UsageError(
            f"{model}: neither a file nor an Ollama model (no models in {_listed(models_folders())}); "
            "give the path of a GGUF, or set OLLAMA_MODELS to the folder that the Ollama server uses"
        )
    near = difflib.get_close_matches(model, found, n=3, cutoff=0.4) or sorted(found)[:3]
    raise UsageError(f"{model}: no such file or Ollama model; nearest: {', '.join(near)}")


def _look(model: str, folder: Path, parts: Sequence[str], refused: list[Path]) -> tuple[Located | None, list[str]]:
    """The model where this folder has it, else the names that it has; a folder that may not be read is `refused`."""
    try:
        names = _names(folder)
        manifest = folder.joinpath("manifests", *parts)
        return (_from_manifest(model, folder, manifest) if manifest.is_file() else None), names
    except PermissionError:
        refused.append(folder)
        return None, []


def _parts(model: str) -> tuple[str, str, str, str]:
    """Host, namespace, model, tag, with Ollama's defaults. Raises UsageError for what cannot be a name."""
    name, colon, tag = model.rpartition(":")
    if not colon or "/" in tag:
        name, tag = model, "latest"
    parts = ["registry.ollama.ai", "library"][: max(0, 3 - name.count("/") - 1)] + name.split("/")
    if len(parts) != 3 or not all(NAME.fullmatch(part) for part in [*parts, tag]):
        raise UsageError(f"{model}: no such file, and not a model's name (those look like llama2:13b or team/model)")
    return parts[0], parts[1], parts[2], tag


def _names(folder: Path) -> list[str]:
    """Every model of a folder, as `ollama list` writes it but for the tag `latest`. Raises PermissionError."""
    root = folder / "manifests"
    try:
        any(root.iterdir())  # glob passes over what it may not read; this raises
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [_name(*manifest.relative_to(root).parts) for manifest in sorted(root.glob("*/*/*/*"))]


def _name(host: str, namespace: str, model: str, tag: str) -> str:
    begin = f"{namespace}/" if host == "registry.ollama.ai" else f"{host}/{namespace}/"
    return ("" if begin == "library/" else begin) + model + ("" if tag == "latest" else f":{tag}")


def _from_manifest(model: str, folder: Path, manifest: Path) -> Located:
    try:
        content = json.loads(manifest.read_bytes())
        config = json.loads(_blob(model, folder, content["config"]["digest"]).read_bytes())
        layers = [(layer["mediaType"].removeprefix(LAYER), layer["digest"]) for layer in content["layers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{manifest}: a damaged manifest; run `ollama pull {model}` again") from error
    _check_config(model, config, [kind for kind, _ in layers])
    texts = {
        kind: _blob(model, folder, digest).read_text("utf-8")
        for kind, digest in layers
        if kind in ("template", "system", "params")
    }
    path = _blob(model, folder, next(digest for kind, digest in layers if kind == "model"))
    if not os.access(path, os.R_OK):
        raise PermissionError
    _check_kind(path, read_header(path))
    parameters = json.loads(texts.get("params", "{}"))
    return Located(path, model, "ollama", texts.get("template"), texts.get("system"), parameters)


def _check_config(model: str, config: Mapping[str, Any], kinds: list[str]) -> None:
    """Each kind of model that has no GGUF of its own here, with its own line."""
    if config.get("remote_host"):
        raise FineTuningNotSupportedError(
            f"{model}: runs in Ollama's cloud, its weights are not on this machine; "
            "choose a model that `ollama pull` brings here"
        )
    if config.get("model_format", "gguf") != "gguf":
        raise FineTuningNotSupportedError(
            f"{model}: stored as {config['model_format']} (MLX), not as GGUF; choose the GGUF variant of this model"
        )
    if "projector" in kinds:
        raise FineTuningNotSupportedError(f"{model}: a vision model (it has a projector); choose its text-only variant")
    if "adapter" in kinds:
        raise FineTuningNotSupportedError(f"{model}: already a base with an adapter; choose the base it was made from")
    if kinds.count("model") != 1:
        raise FineTuningNotSupportedError(f"{model}: its weights are {kinds.count('model')} files; choose one with one")


def _check_kind(path: Path, header: Mapping[str, Any]) -> None:
    kind = "projector" if header.get("general.architecture") == "clip" else header.get("general.type", "model")
    if kind != "model":
        raise FineTuningNotSupportedError(f"{path}: a GGUF of kind {kind}, not a language model; give the model's file")


def _blob(model: str, folder: Path, digest: str) -> Path:
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError("not a digest")
    path = folder / "blobs" / f"sha256-{match[1]}"
    if not path.is_file():
        raise ModelFileError(f"{model}: its file {path} is missing; run `ollama pull {model}` again")
    return path


def _how_to_read(folder: Path) -> str:
    """Whose folder it is, asked of the nearest part of the path that may be looked at."""
    group = "its owner's"
    for part in (folder, *folder.parents):
        try:
            group = part.group()
            break
        except (PermissionError, FileNotFoundError, KeyError, NotImplementedError):
            continue
    return (
        f"{folder}: you may not read this folder; have your user added to its group ({group}) and log in again, "
        "or give the path of a GGUF file"
    )


def _listed(folders: list[Path]) -> str:
    return ", ".join(str(folder) for folder in folders)
