"""A models folder as Ollama 0.33 keeps it: manifests that name blobs by digest."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

LAYER = "application/vnd.ollama.image."
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
HOST, NAMESPACE = "registry.ollama.ai", "library"
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
DETAILS = {
    "format": "model_format",
    "family": "model_family",
    "families": "model_families",
    "parameter_size": "model_type",
    "quantization_level": "file_type",
}

Parts = tuple[str, ...]  # namespace, model, tag


class Failure(Exception):
    """An error that is answered as `{"error": …}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parts_of(text: str) -> Parts:
    """The parts of a name, filled with Ollama's defaults. Raises Failure for what cannot be a name."""
    name, _, tag = text.partition(":")
    parts = (*(NAMESPACE, *name.split("/"))[-2:], tag or "latest")
    if not all(map(PART.fullmatch, parts)):
        raise Failure(400, "invalid model name")
    return parts


def name_of(parts: Parts) -> str:
    """The name as `ollama list` writes it."""
    namespace, model, tag = parts
    return f"{model}:{tag}" if namespace == NAMESPACE else f"{namespace}/{model}:{tag}"


@dataclass(frozen=True)
class Gguf:
    """What /api/show and the config layer say of a file; a list stands as None in `values`."""

    values: dict[str, Any]
    parameters: int


@functools.cache
def read_gguf(blob: Path) -> Gguf:
    reader = gguf.GGUFReader(blob)
    values = {
        name: None if field.types[0] == gguf.GGUFValueType.ARRAY else field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return Gguf(values, sum(int(tensor.n_elements) for tensor in reader.tensors))


@dataclass(frozen=True)
class Model:
    """One manifest; `layers` are the blobs by kind: model, template, system, license, params."""

    name: str
    digest: str  # of the manifest
    modified: int  # nanoseconds
    size: int
    config: dict[str, Any]
    layers: dict[str, Path]

    def text(self, kind: str) -> str | None:
        return self.layers[kind].read_text("utf-8") if kind in self.layers else None

    @property
    def parameters(self) -> dict[str, Any]:
        return json.loads(self.text("params") or "{}")

    @property
    def details(self) -> dict[str, Any]:
        return {"parent_model": "", **{key: self.config[name] for key, name in DETAILS.items()}}


class Store:
    """The folder itself; `shown` is the path that the server gives for it (inside a container, say)."""

    def __init__(self, folder: Path, shown: str | None = None) -> None:
        self.shown = shown or str(folder)
        self.manifests, self.blobs = folder / "manifests" / HOST, folder / "blobs"
        self.manifests.mkdir(parents=True, exist_ok=True)
        self.blobs.mkdir(exist_ok=True)

    def blob(self, digest: str) -> Path:
        match = DIGEST.fullmatch(digest)
        if match is None:
            raise Failure(400, "invalid digest format")
        return self.blobs / f"sha256-{match[1]}"

    def shown_blob(self, digest: str) -> str:
        return f"{self.shown}/blobs/{digest.replace(':', '-')}"

    def put(self, content: bytes) -> tuple[str, bool]:
        """Keep a blob: its digest, and whether it was there before."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self.blob(digest)
        if known := path.exists():
            return digest, known
        part = path.with_name(f"{path.name}-partial")
        part.write_bytes(content)
        part.replace(path)
        return digest, known

    def _manifest(self, name: str) -> Path:
        return self.manifests.joinpath(*parts_of(name))

    def find(self, text: str) -> Model:
        if not self._manifest(text).is_file():
            raise Failure(404, f"model '{text}' not found")
        return self._read(self._manifest(text))

    def _read(self, path: Path) -> Model:
        content = path.read_bytes()
        manifest = json.loads(content)
        return Model(
            name_of(path.relative_to(self.manifests).parts),
            hashlib.sha256(content).hexdigest(),
            path.stat().st_mtime_ns,
            sum(each["size"] for each in [manifest["config"], *manifest["layers"]]),
            json.loads(self.blob(manifest["config"]["digest"]).read_bytes()),
            {each["mediaType"].removeprefix(LAYER): self.blob(each["digest"]) for each in manifest["layers"]},
        )

    def models(self) -> list[Model]:
        """The newest first."""
        return sorted(map(self._read, self.manifests.glob("*/*/*")), key=lambda model: -model.modified)

    def write(self, name: str, config: Mapping[str, Any], layers: list[dict[str, Any]]) -> None:
        """A manifest in the place of whatever has this name."""
        content = go_json(config)
        digest, _ = self.put(content)
        head = {"schemaVersion": 2, "mediaType": MANIFEST}
        config_layer = {"mediaType": CONFIG, "digest": digest, "size": len(content)}
        path = self._manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(go_json({**head, "config": config_layer, "layers": layers}))

    def copy(self, source: str, destination: str) -> None:
        self.find(source)
        path = self._manifest(destination)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._manifest(source).read_bytes())

    def delete(self, text: str) -> Model:
        """Removes the manifest and those of its blobs that no other manifest names."""
        gone, path = self.find(text), self._manifest(text)
        digests = _digests(path)
        path.unlink()
        kept = {digest for other in self.manifests.glob("*/*/*") for digest in _digests(other)}
        for digest in set(digests) - kept:
            self.blob(digest).unlink(missing_ok=True)
        return gone


def _digests(path: Path) -> list[str]:
    manifest = json.loads(path.read_bytes())
    return [layer["digest"] for layer in [manifest["config"], *manifest["layers"]]]


def go_json(value: Any) -> bytes:
    """As Go's encoder writes it: no blanks, HTML's marks escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "".join(f"\\u{ord(each):04x}" if each in "<>&" else each for each in text).encode() + b"\n"
