"""POST /api/create, step by step, with Ollama's own words; and the guess of a template from a GGUF's Jinja text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from .gguf_copy import Gguf, GgufError, file_type_name, imported, parse
from .go_template import GoTemplateError, Template
from .store import LAYER, Failure, Name, Store, go_json

NEAR = 100  # edits: Ollama takes the nearest of its templates below this
ADAPTERS_REFUSED = "LoRA adapters are no longer supported"
# What Ollama serves for a Jinja text that is near to one of these (its own list is longer; the texts here are ours and
# near enough to what models carry).
KNOWN = {
    "phi-3": (
        "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
        "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
        "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
}


@dataclass(frozen=True)
class Importer:
    """The switches of the server that concern create."""

    accepts_adapters: bool = True
    reorder: bool = False
    other_template: str | None = None


class LineError(Exception):
    """An error that comes as a line inside a 200 stream."""


@dataclass
class _Layers:
    """The layers so far, with the line that tells of each."""

    store: Store
    layers: list[dict[str, Any]]
    lines: dict[str, str]
    config: dict[str, Any]

    def add(self, kind: str, content: bytes, origin: str = "", *, known: bool | None = None) -> None:
        layer, was_there = self.store.layer(kind, content, origin)
        self.layers.append(layer)
        word = "using existing" if (was_there if known is None else known) else "creating new"
        self.lines[layer["digest"]] = f"{word} layer {layer['digest']}"

    def drop(self, kind: str) -> None:
        self.layers = [layer for layer in self.layers if layer["mediaType"] != LAYER + kind]

    def told(self) -> Iterator[str]:
        return (self.lines[layer["digest"]] for layer in self.layers if layer["digest"] in self.lines)


def check(store: Store, body: Mapping[str, Any], importer: Importer) -> Name:
    """What is refused before the first line. Raises Failure."""
    name = Name.parse(str(body.get("model") or body.get("name") or ""))
    if name is None:
        raise Failure(400, "invalid model name")
    if not body.get("from") and not body.get("files"):
        raise Failure(400, "neither 'from' or 'files' was specified", charset=False)
    if body.get("adapters") and not importer.accepts_adapters:
        raise Failure(400, ADAPTERS_REFUSED, charset=False)
    if body.get("from"):
        try:
            base = store.find(body["from"])
        except Failure:
            raise Failure(500, "pull model manifest: file does not exist", charset=False) from None
        if body.get("quantize"):
            _check_quantize(base.config["file_type"])
    return name


def _check_quantize(file_type: str) -> None:
    if file_type not in ("F16", "BF16", "F32"):
        raise Failure(500, "quantization is only supported for F16, BF16 and F32 models", charset=False)
    raise Failure(500, "quantize is not part of this server", charset=False)


def create(store: Store, body: Mapping[str, Any], name: Name, importer: Importer) -> Iterator[str]:
    """The status lines. Raises LineError in the middle of them."""
    built = _Layers(store, [], {}, {})
    if body.get("from"):
        _take_base(built, store, body["from"])
    else:
        for file, digest in body["files"].items():
            yield from _take_file(built, file, digest, importer)
    for file, digest in (body.get("adapters") or {}).items():
        yield "parsing GGUF"
        built.add("adapter", _content(store, digest), file)
    told = False
    if not body.get("from") and not body.get("template"):
        told = yield from _guess(built)
    _take_texts(built, body, importer)
    lines = list(built.told())
    yield from lines[1:] if told else lines
    yield "writing manifest"
    store.write(name, built.config, built.layers)
    yield "success"


def _take_base(built: _Layers, store: Store, base: str) -> None:
    model = store.find(base)
    for layer in model.layers:
        built.layers.append({**layer, "from": model.name.short})
        built.lines[layer["digest"]] = f"using existing layer {layer['digest']}"
    built.config = dict(model.config)


def _content(store: Store, digest: str) -> bytes:
    try:
        return store.blob(digest).read_bytes()
    except FileNotFoundError:
        raise LineError(f"open {store.shown_blob(digest)}: no such file or directory") from None


def _take_file(built: _Layers, file: str, digest: str, importer: Importer) -> Iterator[str]:
    yield "parsing GGUF"
    content = _content(built.store, digest)
    try:
        found = parse(content)
        if found.values.get("general.type") == "adapter":
            if not importer.accepts_adapters:
                raise LineError(ADAPTERS_REFUSED)
            built.add("adapter", content, file)
            return
        yield "verifying conversion"
        content = imported(content, reorder=importer.reorder)
        found = parse(content)
    except GgufError as error:
        raise LineError(str(error)) from None
    built.add("model", content)
    built.config = _config(found)


def _config(found: Gguf) -> dict[str, Any]:
    family = found.values["general.architecture"]
    return {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": human(found.parameters),
        "file_type": file_type_name(found.values["general.file_type"]),
        "architecture": "amd64",
        "os": "linux",
    }


def _guess(built: _Layers) -> Iterator[str]:
    """Adds the template and the stop words of the nearest known text; gives True where the model's line is out."""
    models = [layer for layer in built.layers if layer["mediaType"] == LAYER + "model"]
    jinja = parse(built.store.blob(models[0]["digest"]).read_bytes()).values.get("tokenizer.chat_template")
    if not jinja:
        return False
    near = min(KNOWN, key=lambda name: Levenshtein.distance(jinja, KNOWN[name][0]))
    text, template, stop = KNOWN[near]
    if Levenshtein.distance(jinja, text) >= NEAR:
        return False
    yield from built.told()
    yield f"using autodetected template {near}"
    built.add("template", template.encode())
    del built.lines[built.layers[-1]["digest"]]  # no line tells of it
    built.add("params", go_json({"stop": list(stop)}).encode())
    return True


def _take_texts(built: _Layers, body: Mapping[str, Any], importer: Importer) -> None:
    if body.get("template"):
        try:
            Template(body["template"])
        except GoTemplateError as error:
            raise LineError(f"template error: {error}") from None
        built.drop("template")
        built.add("template", (importer.other_template or body["template"]).encode())
    if body.get("system"):
        built.drop("system")
        built.add("system", body["system"].encode())
    if body.get("license"):
        built.drop("license")
        for text in [body["license"]] if isinstance(body["license"], str) else body["license"]:
            built.add("license", text.encode())
    _take_parameters(built, body.get("parameters") or {})
    if body.get("messages"):
        built.drop("messages")
        built.add("messages", go_json(body["messages"]).encode())
    extra = {key: body[key] for key in ("renderer", "parser", "requires") if body.get(key)}
    head = {key: value for key, value in built.config.items() if key not in ("architecture", "os")}
    built.config = {**head, **extra, "architecture": "amd64", "os": "linux"}


def _take_parameters(built: _Layers, wanted: Mapping[str, Any]) -> None:
    """The layer is written anew, last, as the base's parameters with the wanted ones over them."""
    old = [layer for layer in built.layers if layer["mediaType"] == LAYER + "params"]
    parameters = json.loads(built.store.blob(old[-1]["digest"]).read_bytes()) if old else {}
    parameters.update(wanted)
    if parameters:
        told = built.lines.get(old[-1]["digest"]) if old else None
        built.drop("params")
        built.add("params", go_json(dict(sorted(parameters.items()))).encode())
        if told and built.layers[-1]["digest"] == old[-1]["digest"]:
            built.lines[old[-1]["digest"]] = told


def human(count: int) -> str:
    """A count of parameters as Ollama writes it: 42.21M, 1.2B, 3B, 190K."""
    if count >= 1e9:
        return f"{count // 10**9}B" if count % 10**9 == 0 else f"{count / 1e9:.1f}B"
    if count >= 1e6:
        return f"{count // 10**6}M" if count % 10**6 == 0 else f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.0f}K" if count >= 1000 else str(count)
