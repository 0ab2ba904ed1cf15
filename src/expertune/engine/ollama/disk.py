"""Ollama's models folder on this disk; needs no running server.

Layout (Ollama 0.33.0-rc2): `manifests/<host>/<namespace>/<model>/<tag>` is JSON that names a config blob and layers by
digest; a digest `sha256:<hex>` is the file `blobs/sha256-<hex>`. Nothing in it is trusted.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FineTuningNotSupportedError, ModelFileError, UsageError
from ..answers import Manifest
from .model import OllamaModel, plain_parameters

WINDOWS = os.name == "nt"
LAYER = "application/vnd.ollama.image."
TEXTS = ("template", "prompt", "system", "params", "license")  # layers that are read; `prompt` is the old `template`
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(:[0-9]+)?")
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
TEXT_BYTES = 4 << 20  # a longer manifest, template or licence is damage
# Default model folders of services: Ollama's own installer, NixOS, Gentoo, Arch, snap.
SERVICE_FOLDERS = (
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama",
    "/var/snap/ollama/common/models",
)

Parts = tuple[str, str, str, str]  # host, namespace, model, tag


@dataclass(frozen=True)
class ManifestEntry:
    """One line of `ollama list`, from the folder or the server; zero and "" where that does not say."""

    name: str
    size: int
    family: str
    parameters: str
    quantisation: str


def models_folders() -> list[Path]:
    """Ollama's models folders: by its variable, this user's (also on macOS and Windows), those of services."""
    variable = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    folders = [Path(variable)] if variable else []
    try:
        folders = [folder.expanduser() for folder in folders]
        folders.append(Path.home() / ".ollama/models")
    except RuntimeError:  # a container's user without a home
        pass
    return [*folders, *(map(Path, SERVICE_FOLDERS) if not WINDOWS else ())]


def readable(folder: Path) -> bool | None:
    """Check whether the folder's models can be read; None where there is no such folder."""
    try:
        next((folder / "manifests").iterdir(), None)
        return True
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Check whether it is a file. Raises PermissionError where that may not be known (pathlib varies by version)."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False


def parts_of(model: str) -> Parts:
    """Host, namespace, model, tag, with Ollama's defaults. Raises UsageError for what cannot be a name."""
    name, colon, tag = model.rpartition(":")
    if not colon or "/" in tag:
        name, tag = model, "latest"
    parts = ["registry.ollama.ai", "library"][: max(0, 3 - name.count("/") - 1)] + name.split("/")
    if len(parts) != 3 or not HOST.fullmatch(parts[0]) or not all(map(NAME.fullmatch, [*parts[1:], tag])):
        raise UsageError(f"{model}: no such file, and not a model's name (those look like llama2:13b or team/model)")
    return parts[0], parts[1], parts[2], tag


def name_of(parts: Parts) -> str:
    """The name as `ollama list` writes it but for the tag `latest`."""
    host, namespace, model, tag = parts
    begin = f"{namespace}/" if host == "registry.ollama.ai" else f"{host}/{namespace}/"
    return ("" if begin == "library/" else begin) + model + ("" if tag == "latest" else f":{tag}")


def models_in(folder: Path) -> list[Parts]:
    """Every model of a folder. Raises PermissionError; names that are not a model's (.DS_Store) are skipped."""
    root = folder / "manifests"
    try:
        any(root.iterdir())  # glob skips what it may not read; this raises
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [manifest.relative_to(root).parts for manifest in sorted(root.glob("*/*/*/*")) if is_file(manifest)]
    return [
        (host, namespace, model, tag)
        for host, namespace, model, tag in found
        if HOST.fullmatch(host) and all(map(NAME.fullmatch, (namespace, model, tag)))
    ]


def matching(parts: Parts, found: list[Parts]) -> Parts | None:
    """The model among `found` that `parts` names; upper and lower case are alike, as for Ollama."""
    wanted = [part.casefold() for part in parts]
    return parts if parts in found else next((p for p in found if [each.casefold() for each in p] == wanted), None)


def stored(name: str, folder: Path, parts: Parts) -> OllamaModel:
    """A model's manifest with its texts. Raises ModelFileError (damaged, a blob is missing), PermissionError."""
    manifest = folder.joinpath("manifests", *parts)
    try:
        config, layers = _manifest(name, folder, manifest)
        texts = {kind: [_text(blob) for each, blob in layers if each == kind] for kind in TEXTS}
        parameters = json.loads(_first(texts, "params") or "{}")
        return OllamaModel(
            name,
            tuple(str(blob) for kind, blob in layers if kind == "model"),
            adapters=sum(kind == "adapter" for kind, _ in layers),
            vision=any(kind == "projector" for kind, _ in layers),
            format=str(config.get("model_format") or "gguf"),
            remote_host=config.get("remote_host") or None,
            template=_first(texts, "template") or _first(texts, "prompt"),
            system=_first(texts, "system"),
            license="\n".join(texts["license"]) or None,
            renderer=config.get("renderer") or None,
            parser=config.get("parser") or None,
            parameters=plain_parameters(dict(parameters)),
        )
    except DAMAGE as error:
        raise ModelFileError(f"{manifest}: a damaged manifest; run `ollama pull {name}` again") from error


def entry(folder: Path, parts: Parts) -> ManifestEntry:
    """The list entry of a model, without its weights; never raises for a damaged one."""
    manifest = folder.joinpath("manifests", *parts)
    config: Mapping[str, Any] = {}
    size = 0
    try:
        content = Manifest.model_validate(json.loads(_text(manifest)))
        size = sum(each.size for each in (content.config, *content.layers))
        config = dict(json.loads(_text(_path(folder, content.config.digest))))
    except (OSError, *DAMAGE):
        pass  # what is wrong is said by `stored`
    facts = (str(config.get(key) or "") for key in ("model_family", "model_type", "file_type"))
    return ManifestEntry(name_of(parts), size, *facts)


def _manifest(name: str, folder: Path, manifest: Path) -> tuple[Mapping[str, Any], list[tuple[str, Path]]]:
    content = Manifest.model_validate(json.loads(_text(manifest)))
    config = dict(json.loads(_text(_blob(name, folder, content.config.digest))))
    kinds = [(layer.kind.removeprefix(LAYER), layer.digest) for layer in content.layers]
    return config, [
        (kind, _blob(name, folder, digest) if kind in ("model", *TEXTS) else _path(folder, digest))
        for kind, digest in kinds
    ]


def _first(texts: Mapping[str, list[str]], kind: str) -> str | None:
    return next(iter(texts[kind]), "") or None


def _text(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise ValueError("too long for a text")
    return data.decode("utf-8")


def _path(folder: Path, digest: str) -> Path:
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError("not a digest")
    return folder / "blobs" / f"sha256-{match[1]}"


def _blob(name: str, folder: Path, digest: str) -> Path:
    path = _path(folder, digest)
    if not is_file(path):
        raise ModelFileError(f"{name}: its file {path} is missing; run `ollama pull {name}` again")
    return path


def may_not_read(folder: Path) -> FineTuningNotSupportedError:
    """The error for a folder that may not be read; names the group of the nearest readable part of its path."""
    group = "its owner's"
    for part in (folder, *folder.parents):
        try:
            group = part.group()
            break
        except (OSError, KeyError, NotImplementedError):
            continue
    return FineTuningNotSupportedError(
        f"{folder}: you may not read this folder; have your user added to its group ({group}) and log in again, "
        "or give the path of a GGUF file"
    )
