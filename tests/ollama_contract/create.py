"""POST /api/create, with Ollama's own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf

from .store import LAYER, Failure, Gguf, Store, go_json, parts_of, read_gguf

Layers = dict[str, bytes]  # by kind
FIELDS = {"model", "from", "files", "template", "system", "license", "parameters"}


def create(store: Store, body: Mapping[str, Any], change: Callable[[Layers], Layers]) -> Iterator[dict[str, str]]:
    """The lines of the answer. Raises Failure for what is refused as a whole.

    The file that was uploaded is the one that is served, which is what a real server makes of a file in llama.cpp's own
    order (test_ollama_real.py); `change` may make other layers. `from` is refused as it is for an absent base.
    """
    parts_of(body["model"])
    if body.get("from"):
        raise Failure(500, "pull model manifest: file does not exist")
    if not body.get("files"):
        raise Failure(400, "neither 'from' or 'files' was specified")
    if unknown := body.keys() - FIELDS:
        raise Failure(501, f"the tests' own server knows no {', '.join(unknown)}")
    yield {"status": "parsing GGUF"}
    (uploaded,) = body["files"].values()
    yield {"status": "verifying conversion"}
    layers = []
    for kind, content in change(_layers(store.blob(uploaded).read_bytes(), body)).items():
        digest, known = store.put(content)
        layers.append({"mediaType": LAYER + kind, "digest": digest, "size": len(content)})
        yield {"status": f"{'using existing' if known else 'creating new'} layer {digest}"}
    yield {"status": "writing manifest"}
    store.write(body["model"], _config(read_gguf(store.blob(layers[0]["digest"]))), layers)
    yield {"status": "success"}


def _layers(weights: bytes, body: Mapping[str, Any]) -> Layers:
    texts = {kind: body[kind].encode() for kind in ("template", "system", "license") if body.get(kind)}
    parameters = dict(sorted((body.get("parameters") or {}).items()))
    return {"model": weights, **texts, **({"params": go_json(parameters)} if parameters else {})}


def _config(found: Gguf) -> dict[str, Any]:
    family = found.values["general.architecture"]
    file_type = gguf.LlamaFileType(found.values["general.file_type"]).name
    return {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": f"{found.parameters / 1e6:.2f}M" if found.parameters >= 1e6 else f"{found.parameters / 1e3:.0f}K",
        "file_type": file_type.removeprefix("MOSTLY_").removeprefix("ALL_"),
        "architecture": "amd64",
        "os": "linux",
    }
