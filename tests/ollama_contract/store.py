"""A models folder as Ollama 0.33 keeps it: manifests that name blobs by digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gguf_copy import Gguf, parse

LAYER = "application/vnd.ollama.image."
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


class Failure(Exception):
    """An error that is answered as `{"error": …}`. Create's own lack the charset in their content type."""

    def __init__(self, status: int, message: str, *, charset: bool = True) -> None:
        super().__init__(message)
        self.status, self.charset = status, charset


@dataclass(frozen=True)
class Name:
    """host/namespace/model:tag, filled with Ollama's defaults."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """None for what cannot be a name."""
        name, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            name, tag = text, TAG
        parts = name.split("/")
        parts = [HOST, NAMESPACE][: max(0, 3 - len(parts))] + parts
        if len(parts) != 3 or not all(PART.fullmatch(part) for part in [*parts, tag]):
            return None
        host, namespace, model = parts
        return cls(host, namespace, model, tag)

    @property
    def short(self) -> str:
        begin = "" if self.host == HOST else f"{self.host}/"
        begin += f"{self.namespace}/" if begin or self.namespace != NAMESPACE else ""
        return f"{begin}{self.model}:{self.tag}"


@dataclass(frozen=True)
class Model:
    """One manifest, read."""

    name: Name
    folder: Path
    digest: str  # of the manifest
    modified: int  # nanoseconds
    config: dict[str, Any]
    config_size: int
    layers: tuple[dict[str, Any], ...]

    def path(self, kind: str) -> Path | None:
        """The blob of the last layer of this kind: model, adapter."""
        digests = [layer["digest"] for layer in self.layers if layer["mediaType"] == LAYER + kind]
        return self.folder / "blobs" / digests[-1].replace(":", "-") if digests else None

    def text(self, kind: str) -> str | None:
        path = self.path(kind)
        return None if path is None else path.read_text("utf-8")

    def texts(self, kind: str) -> list[str]:
        found = [layer["digest"] for layer in self.layers if layer["mediaType"] == LAYER + kind]
        return [(self.folder / "blobs" / digest.replace(":", "-")).read_text("utf-8") for digest in found]

    @property
    def parameters(self) -> dict[str, Any]:
        return json.loads(self.text("params") or "{}")

    @property
    def messages(self) -> list[dict[str, str]]:
        return json.loads(self.text("messages") or "[]")

    @property
    def size(self) -> int:
        return sum(layer["size"] for layer in self.layers) + self.config_size

    @property
    def parent(self) -> str:
        return next((layer.get("from", "") for layer in self.layers if layer["mediaType"] == LAYER + "model"), "")

    @property
    def gguf(self) -> Gguf:
        path = self.path("model")
        assert path is not None
        return parse(path.read_bytes())

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": self.parent,
            "format": self.config["model_format"],
            "family": self.config["model_family"],
            "families": self.config["model_families"],
            "parameter_size": self.config["model_type"],
            "quantization_level": self.config["file_type"],
        }

    def capabilities(self) -> list[str]:
        template = self.text("template") or ""
        return ["completion", *(["tools"] if ".Tools" in template else []), *(["thinking"] if self.thinks else [])]

    @property
    def thinks(self) -> bool:
        return ".Thinking" in (self.text("template") or "")


class Store:
    """The folder itself. `shown` is how the server names it (inside a container, say)."""

    def __init__(self, folder: Path, shown: str | None = None) -> None:
        self.folder, self.shown = folder, shown or str(folder)
        for part in ("manifests", "blobs"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def blob(self, digest: str) -> Path:
        """Raises Failure for what is no digest."""
        match = DIGEST.fullmatch(digest)
        if match is None:
            raise Failure(400, "invalid digest format")
        return self.folder / "blobs" / f"sha256-{match[1]}"

    def shown_blob(self, digest: str) -> str:
        return f"{self.shown}/blobs/{digest.replace(':', '-')}"

    def put(self, content: bytes) -> tuple[str, bool]:
        """The digest, and whether the blob was there before."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self.blob(digest)
        if known := path.exists():
            return digest, known
        part = path.with_name(f"{path.name}-partial")
        part.write_bytes(content)
        part.replace(path)
        return digest, known

    def _manifest(self, name: Name) -> Path:
        return self.folder.joinpath("manifests", name.host, name.namespace, name.model, name.tag)

    def find(self, text: str, *, shown: str | None = None) -> Model:
        """Raises Failure 404, which names the model as `shown`, by default as it was asked for."""
        name = Name.parse(text)
        if name is None or not self._manifest(name).is_file():
            raise Failure(404, f"model '{shown or text}' not found")
        return self._read(name)

    def _read(self, name: Name) -> Model:
        path = self._manifest(name)
        content = path.read_bytes()
        manifest = json.loads(content)
        config = json.loads(self.blob(manifest["config"]["digest"]).read_bytes())
        return Model(
            name,
            self.folder,
            hashlib.sha256(content).hexdigest(),
            path.stat().st_mtime_ns,
            config,
            manifest["config"]["size"],
            tuple(manifest["layers"]),
        )

    def models(self) -> Iterator[Model]:
        """The newest first."""
        root = self.folder / "manifests"
        names = [Name(*path.relative_to(root).parts) for path in root.glob("*/*/*/*") if path.is_file()]
        return iter(sorted(map(self._read, names), key=lambda model: -model.modified))

    def write(self, name: Name, config: dict[str, Any], layers: list[dict[str, Any]]) -> None:
        """A manifest in the place of whatever has this name."""
        content = go_json(config).encode()
        digest, _ = self.put(content)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": len(content)},
            "layers": layers,
        }
        path = self._manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(go_json(manifest), "utf-8")

    def layer(self, kind: str, content: bytes, origin: str = "") -> tuple[dict[str, Any], bool]:
        digest, known = self.put(content)
        layer = {"mediaType": LAYER + kind, "digest": digest, "size": len(content)}
        return ({**layer, "from": origin} if origin else layer), known

    def copy(self, source: str, destination: str) -> None:
        to = Name.parse(destination)
        if to is None:
            raise Failure(400, f'destination "{destination}" is invalid')
        name = Name.parse(source)
        if name is None or not self._manifest(name).is_file():
            raise Failure(404, f'model "{source}" not found')
        path = self._manifest(to)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._manifest(name).read_bytes())

    def delete(self, text: str) -> Model:
        """Removes the manifest and those of its blobs that no other manifest names."""
        gone = self.find(text)
        manifest = json.loads(self._manifest(gone.name).read_bytes())
        self._manifest(gone.name).unlink()
        kept = {digest for path in (self.folder / "manifests").glob("*/*/*/*") for digest in _digests(path)}
        for layer in [manifest["config"], *manifest["layers"]]:
            if layer["digest"] not in kept:
                self.blob(layer["digest"]).unlink(missing_ok=True)
        return gone


def _digests(path: Path) -> list[str]:
    manifest = json.loads(path.read_bytes())
    return [layer["digest"] for layer in [manifest["config"], *manifest["layers"]]]


def go_json(value: Any, *, newline: bool = True) -> str:
    """As Go's encoder writes it: no blanks, HTML's marks escaped, whole floats without a point."""
    text = json.dumps(_whole(value), ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text + "\n" * newline


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
