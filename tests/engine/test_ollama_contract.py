"""The tests' own Ollama server against what a real one answered: statuses, forms, words, renders, files, faults."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_adapter, write_model
from ollama_contract.compare import DIGEST, DISK, answers_with, form, said
from ollama_contract.gguf_copy import Gguf, GgufError, imported, parse
from ollama_contract.go_template import GoTemplateError, Template
from ollama_contract.grammar import SchemaError, grammar
from ollama_contract.replay import Replay, body_of, recorded, recorded_names
from ollama_contract.server import ContractServer

NOT_SERVED = {"openai-chat"}
NAMES = [name for name in recorded_names() if name not in NOT_SERVED]
JINJA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ASK = [{"role": "system", "content": "Rate this record."}, {"role": "user", "content": "cough and fever"}]
OPTIONS = {"temperature": 0, "seed": 1, "num_ctx": 256, "num_predict": 8}
GO = recorded("create-stream")["request"]["json"]["template"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content) if self.content else None

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.content.splitlines()]


def ask(server: ContractServer | Replay, method: str, path: str, body: Any = None) -> Answer:
    """One request on a connection of its own; a body that is not bytes goes as JSON."""
    connection = http.client.HTTPConnection(server.host, timeout=60)
    try:
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def chat(server: ContractServer, **more: Any) -> Answer:
    body = {"model": "tiny", "messages": ASK, "stream": False, "options": OPTIONS, **more}
    return ask(server, "POST", "/api/chat", body)


# --- the recorded session, made again with tiny models ---


def without_file_type(path: Path) -> bytes:
    """The file without `general.file_type`: Ollama then guesses it and shows "unknown"."""
    content = path.read_bytes()
    found = parse(content)
    keys = [raw for key, raw in found.raw.items() if key != "general.file_type"]
    infos = [tensor.info(tensor.offset) for tensor in found.tensors]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join([*keys, *infos])
    return head + bytes(-len(head) % 32) + content[found.data :]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bodies of the recorded uploads: ours under the recorded names of the exchanges."""
    folder = tmp_path_factory.mktemp("files")

    def make(name: str, **more: Any) -> Path:
        return tiny.make(folder / name, **{"vocab": "spm", "context": 2048, "chat_template": None, **more})

    adapter = folder / "adapter.gguf"
    pair = np.full((2, 64), 0.01, np.float32), np.full((64, 2), 0.01, np.float32)
    write_adapter(adapter, architecture="llama", alpha=2.0, tensors={"blk.0.attn_q.weight": pair}, metadata={})
    odd = recorded("show-odd")["response"]["json"]["template"]
    base = without_file_type(make("tiny"))
    marks = {"expertune.version": "0.1.0", "expertune.base.sha256": "0" * 64}
    return {
        "blob-post": base,
        "blob-post-again": base,
        "blob-post-jinja": without_file_type(make("jinja", chat_template=JINJA)),
        "blob-post-odd": make("odd", chat_template=odd).read_bytes(),
        "blob-post-merged": make("merged", types={"attn_q": "Q8_0", "attn_v": "Q8_0"}, extra=marks).read_bytes(),
        "blob-post-float": without_file_type(make("float", seed=1)),
        "blob-post-adapter": adapter.read_bytes(),
        "blob-post-truncated": base[: len(base) // 2],
        "blob-post-junk": b"junk" * 375,
        "blob-wrong-digest": b"8 bytes.",
        "blob-bad-digest-form": b"x",
        "chat-bad-json": b'{"model": ',
    }


@pytest.fixture(scope="module")
def session(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """Every recorded request in its order, with our files' digests in the place of theirs."""
    digests = {}
    for name, content in files.items():
        theirs = DIGEST.search(recorded(name)["request"]["path"])
        if theirs and name != "blob-wrong-digest":
            digests[theirs[1]] = hashlib.sha256(content).hexdigest()
    answers = {}
    with ContractServer(tmp_path_factory.mktemp("session")) as server:
        for name in NAMES:
            request = recorded(name)["request"]
            text = json.dumps([request["path"], request.get("json")])
            path, body = json.loads(DIGEST.sub(lambda m: f"sha256:{digests.get(m[1], m[1])}", text))
            answers[name] = ask(server, request["method"], path, files.get(name, body))
    yield answers


@pytest.mark.parametrize("name", NAMES)
def test_answers_as_recorded(session: dict[str, Answer], name: str):
    ours, theirs = session[name], recorded(name)["response"]
    assert ours.status == theirs["status"]
    free = {"Date", "Content-Length", "Transfer-Encoding"}
    kept = {key: value for key, value in theirs["headers"].items() if key not in free}
    assert {key: value for key, value in ours.headers.items() if key not in free} == kept
    if "text" in theirs:
        assert ours.content.decode() == theirs["text"]
        return
    mine, recordeds = ours.lines if ours.content else [], answers_with(theirs)
    if name.startswith("create"):
        assert [said(line) for line in mine] == [said(line) for line in recordeds]
    for place in (0, -1) if recordeds and not name.startswith(("ps", "tags")) else ():
        assert form(mine[place]) == form(recordeds[place])
        assert said(mine[place]) == said(recordeds[place])


def test_lists_as_recorded(session: dict[str, Answer]):
    for name in ("tags", "ps", "ps-after-unload"):
        ours, theirs = session[name].json["models"], recorded(name)["response"]["json"]["models"]
        assert form(ours) == form(theirs)
    for name in ("tags", "ps"):
        ours, theirs = session[name].json["models"], recorded(name)["response"]["json"]["models"]
        parents = {model["name"]: model["details"]["parent_model"] for model in theirs}
        assert {model["name"]: model["details"]["parent_model"] for model in ours} == parents
    unloaded = [model["name"] for model in session["ps-after-unload"].json["models"]]
    assert "tiny:latest" not in unloaded and "tiny-merged:latest" in unloaded


def test_counts_as_recorded(session: dict[str, Answer]):
    assert session["chat-too-long"].json["prompt_eval_count"] == 259
    assert session["chat-plain"].json["done_reason"] == "length"
    assert json.loads(session["chat-too-long-no-truncate"].json["error"])["error"]["n_ctx"] == 512
    generated = session["generate-context"].json
    assert len(generated["context"]) == generated["prompt_eval_count"] - 1 + generated["eval_count"]
    assert (
        session["chat-plain"].json["prompt_eval_count"] == session["generate-raw-score-empty"].json["prompt_eval_count"]
    )
    pieces = [line["message"]["content"] for line in session["chat-stream"].lines]
    assert "".join(pieces) == session["chat-plain"].json["message"]["content"] and len(pieces) > 20


def test_logprobs_are_the_models_own_whatever_the_grammar_takes(session: dict[str, Answer]):
    (free,), (held,) = (session[f"generate-raw-{kind}"].json["logprobs"] for kind in ("score-rating", "grammar-score"))
    assert held["token"] == '"' != free["token"]
    for one, other in zip(held["top_logprobs"], free["top_logprobs"], strict=True):
        assert one["token"] == other["token"] and math.isclose(one["logprob"], other["logprob"], abs_tol=1e-4)
    assert held["logprob"] < free["logprob"]


@pytest.mark.parametrize("label", ["match", "does-not-match", "unknown"])
def test_scores_a_forced_label_as_recorded(server: ContractServer, label: str):
    exchange = recorded(f"forced-score-{label}")
    answer = ask(server, "POST", "/api/generate", exchange["request"]["json"]).json
    theirs = exchange["response"]["json"]
    assert form(answer) == form(theirs) and answer["response"].strip() == theirs["response"]
    assert "".join(each["token"] for each in answer["logprobs"]) == answer["response"]
    assert all(each["logprob"] <= 0 and len(each["top_logprobs"]) == 1 for each in answer["logprobs"])
    for one in (answer, theirs):  # the token that ends the answer is counted and not shown
        assert one["eval_count"] == len(one["logprobs"]) + (one["done_reason"] == "stop")


def test_writes_the_layers_that_ollama_wrote(files: dict[str, bytes], tmp_path: Path):
    request = recorded("create-stream")["request"]["json"]
    with ContractServer(tmp_path) as server:
        for name, upload in (("tiny", "blob-post"), ("tiny-jinja", "blob-post-jinja"), ("tiny-odd", "blob-post-odd")):
            path = tmp_path / "upload.gguf"
            path.write_bytes(files[upload])
            given = {key: request[key] for key in ("template", "system", "parameters", "license")}
            server.add(name, path, **(given if name == "tiny" else {}))
        ask(server, "POST", "/api/create", {"model": "team/tiny:v2", "from": "tiny"})
    for theirs in (DISK / "manifests").glob("*/*/*/*"):
        ours = tmp_path / theirs.relative_to(DISK)
        if not ours.exists():
            assert theirs.parent.name in ("tiny-adapter", "tiny-merged")
            continue
        mine, wanted = json.loads(ours.read_text()), json.loads(theirs.read_text())
        assert form(mine) == form(wanted)
        assert mine["layers"][1:] == wanted["layers"][1:]  # all but the model's own
        configs = [
            json.loads((root / "blobs" / manifest["config"]["digest"].replace(":", "-")).read_text())
            for root, manifest in ((tmp_path, mine), (DISK, wanted))
        ]
        assert form(configs[0]) == form(configs[1])


# --- the import of a file ---


def tensors(content: bytes, found: Gguf) -> dict[str, bytes]:
    return {t.name: content[found.data + t.offset : found.data + t.offset + t.nbytes] for t in found.tensors}


def test_import_leaves_our_own_files_alone(tmp_path: Path):
    made = tiny.make(tmp_path / "made.gguf", qtype="Q8_0", rope_freqs=True, layers=11)
    written = tmp_path / "written.gguf"
    write_model(written, GGUFFile(made), replaced={}, metadata={"expertune.version": "1"})
    content = written.read_bytes()
    assert imported(content) == content
    assert imported(content, reorder=True) != content


def test_import_reorders_and_adds(tmp_path: Path):
    content = without_file_type(tiny.make(tmp_path / "made.gguf", qtype="Q8_0", layers=11))
    out = imported(content)
    before, after = parse(content), parse(out)
    assert imported(out) == out != content
    assert list(after.raw)[-2:] == ["general.quantization_version", "general.file_type"]
    assert after.values["general.file_type"] == 1024 + int(gguf.LlamaFileType.MOSTLY_Q8_0)
    names = [tensor.name for tensor in after.tensors]
    assert names[:4] == ["output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight"]
    assert names.index("blk.2.ffn_up.weight") < names.index("blk.10.attn_k.weight")
    assert tensors(out, after) == tensors(content, before)
    backwards = imported(content, reorder=True)
    assert backwards != out and tensors(backwards, parse(backwards)) == tensors(out, after)


@pytest.mark.parametrize("size", [20, 100, 3000])
def test_files_that_end_in_their_head_are_refused(tmp_path: Path, size: int):
    content = tiny.make(tmp_path / "made.gguf").read_bytes()
    with pytest.raises(GgufError, match="unexpected EOF"):
        parse(content[:size])


def test_llama_cpp_reads_what_was_imported(tmp_path: Path):
    path = tmp_path / "imported.gguf"
    path.write_bytes(imported(tiny.make(tmp_path / "made.gguf").read_bytes(), reorder=True))
    reader = gguf.GGUFReader(path)
    original = {t.name: t.data.tobytes() for t in gguf.GGUFReader(tmp_path / "made.gguf").tensors}
    assert {t.name: t.data.tobytes() for t in reader.tensors} == original


# --- templates ---


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("render-tiny")] + ["render-three-turns"])
def test_renders_as_recorded(name: str):
    exchange = recorded(name)
    shown = {"tiny": "show", "tiny-jinja": "show-jinja", "tiny-merged": "show-merged", "tiny-odd": "show-odd"}
    template = recorded(shown[exchange["request"]["json"]["model"]])["response"]["json"]["template"]
    if "bos_token" in template:
        with pytest.raises(GoTemplateError, match='function "bos_token" not defined'):
            Template(template)
        return
    wanted = exchange["response"]["json"]["_debug_info"]["rendered_template"]
    assert Template(template).render(exchange["request"]["json"]["messages"]) == wanted


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("a {{- .X -}}  b", {"X": 1}, "a1b"),
        ("{{ if .A }}a{{ else if .B }}b{{ else }}c{{ end }}", {"A": "", "B": 2}, "b"),
        ("{{ if and .A (not .B) }}y{{ else }}n{{ end }}", {"A": 1, "B": 0}, "y"),
        (
            "{{ range $i, $m := .M }}{{ if eq $i 0 }}<{{ end }}{{ $m.R }}{{ end }}",
            {"M": [{"R": "x"}, {"R": "y"}]},
            "<xy",
        ),
        (
            "{{ $n := len .M }}{{ range .M }}{{ . }}{{ $.S }}{{ else }}none{{ end }}{{ $n }}",
            {"M": [1, 2], "S": ";"},
            "1;2;2",
        ),
        ("{{ range .M }}{{ . }}{{ else }}none{{ end }}", {"M": []}, "none"),
        (
            "{{ range $i, $_ := .M }}{{ $last := eq (len (slice $.M $i)) 1 }}{{ . }}{{ if $last }}!{{ end }}{{ end }}",
            {"M": ["a", "b"]},
            "ab!",
        ),
        ("{{ (index .M 1).R }}{{/* no */}}{{ with .N }}{{ . }}{{ end }}", {"M": [{}, {"R": "r"}], "N": 3}, "r3"),
        ("{{ $a := 1 }}{{ if true }}{{ $a = 2 }}{{ end }}{{ $a }}{{ .Z | len }}", {"Z": "zz"}, "22"),
        ('{{ if or (eq .R "a" "b") (ne .R `c`) }}{{ "q}}" }}{{ end }}', {"R": "b"}, "q}}"),
        (
            "{{ range .M }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ if gt . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
            {"M": [1, 2, 3, 4, 5]},
            "13",
        ),
    ],
)
def test_go_template(template: str, values: dict[str, Any], text: str):
    parsed = Template(template + "{{ .Response }}")
    assert parsed.execute({**values, "Response": "."}) == text + "."


def test_a_template_without_messages_is_filled_turn_by_turn():
    template = Template("{{ if .System }}S {{ .System }}\n{{ end }}U {{ .Prompt }}\nA {{ .Response }}</s>\n")
    turns = [*ASK, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "next"}]
    assert template.render(turns) == "S Rate this record.\nU cough and fever\nA yes</s>\nU next\nA "
    assert Template("[{{ .Prompt }}]").render(turns) == "[cough and fever]yes[next]"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ .Nope", "template: :1: unclosed action"),
        ("\n{{ nope }}", 'template: :2: function "nope" not defined'),
        ("{{ if .A }}", "template: :1: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
    ],
)
def test_template_errors(template: str, error: str):
    with pytest.raises(GoTemplateError, match=re.escape(error)):
        Template(template)


# --- switches ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def server(tmp_path: Path, model: Path) -> Iterator[ContractServer]:
    with ContractServer(tmp_path / "models") as server:
        server.add("tiny", model, template=GO, system="You rate.")
        yield server


def test_chat_format_can_be_broken_while_raw_works(tmp_path: Path, model: Path):
    with ContractServer(tmp_path, broken_chat_format=True) as server:
        server.add("tiny", model, template=GO)
        assert "Failed to initialize samplers" in chat(server, format="json").json["error"]
        raw = {"model": "tiny", "prompt": "x", "raw": True, "stream": False, "options": OPTIONS}
        schema = {"type": "string", "enum": ["Match"]}
        answer = ask(server, "POST", "/api/generate", {**raw, "format": schema}).json["response"]
        assert json.loads(answer) == "Match"


def test_old_versions_ignore_what_they_do_not_know(tmp_path: Path, model: Path):
    with ContractServer(tmp_path, version="0.11.4") as server:
        server.add("tiny", model, template=GO)
        answer = chat(server, _debug_render_only=True, logprobs=True, top_logprobs=30).json
        assert "_debug_info" not in answer and "logprobs" not in answer and answer["eval_count"] == 8


def test_new_versions_take_no_adapters(tmp_path: Path, model: Path, files: dict[str, bytes]):
    with ContractServer(tmp_path, version="0.34.1") as server:
        server.add("tiny", model, template=GO)
        digest, _ = server.store.put(files["blob-post-adapter"])
        refused = "LoRA adapters are no longer supported"
        body = {"model": "x", "from": "tiny", "adapters": {"a.gguf": digest}}
        assert ask(server, "POST", "/api/create", body).json == {"error": refused}
        last = ask(server, "POST", "/api/create", {"model": "x", "files": {"a.gguf": digest}}).lines[-1]
        assert last == {"error": refused}


def test_shows_other_folders_and_other_templates(tmp_path: Path, model: Path):
    with ContractServer(tmp_path, path_prefix="/root/.ollama/models", other_template="{{ .Prompt }}!") as server:
        server.add("tiny", model, template=GO)
        shown = ask(server, "POST", "/api/show", {"model": "tiny"}).json
        assert "\nFROM /root/.ollama/models/blobs/sha256-" in shown["modelfile"]
        assert shown["template"] == "{{ .Prompt }}!"


def test_reorder_gives_another_digest(tmp_path: Path, model: Path):
    with ContractServer(tmp_path / "a") as plain, ContractServer(tmp_path / "b", reorder=True) as other:
        plain.add("tiny", model)
        other.add("tiny", model)
        one, two = (s.store.find("tiny").path("model") for s in (plain, other))
        assert one and two and one.name != two.name and one.stat().st_size == two.stat().st_size


def test_a_near_jinja_text_is_replaced_by_a_known_template(server: ContractServer, model: Path):
    server.add("guessed", model)
    shown = ask(server, "POST", "/api/show", {"model": "guessed"}).json
    assert shown["template"].startswith("{{- range .Messages }}<|im_start|>")


def test_an_absent_base_is_noted_and_never_fetched(server: ContractServer):
    answer = ask(server, "POST", "/api/create", {"model": "x", "from": "absent"})
    assert (answer.status, server.pulls) == (500, ["absent"])
    assert answer.json == {"error": "pull model manifest: file does not exist"}


def test_delete_keeps_what_others_use(server: ContractServer):
    assert ask(server, "POST", "/api/create", {"model": "other", "from": "tiny", "system": "Else."}).status == 200
    model, mine = server.store.find("other").path("model"), server.store.find("other").path("system")
    assert ask(server, "DELETE", "/api/delete", {"model": "other"}).status == 200
    assert model and model.exists() and mine and not mine.exists()
    assert chat(server).status == 200


def test_a_closed_server_ends_its_connections(tmp_path: Path):
    with ContractServer(tmp_path) as server:
        connection = http.client.HTTPConnection(server.host, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"Ollama is running"
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        connection.request("GET", "/")
        connection.getresponse()
    connection.close()


def test_lists_its_requests(server: ContractServer):
    chat(server)
    ask(server, "GET", "/api/version")
    assert [(each.method, each.path) for each in server.requests] == [("POST", "/api/chat"), ("GET", "/api/version")]
    assert server.requests[0].json["messages"] == ASK and server.requests[1].json is None


def test_the_system_layer_speaks_where_no_system_message_does(server: ContractServer):
    answer = chat(server, messages=ASK[1:], _debug_render_only=True).json
    assert answer["_debug_info"]["rendered_template"] == Template(GO).render(
        [{"role": "system", "content": "You rate."}, ASK[1]]
    )


# --- answers that are held to a schema ---


def test_held_answers_are_json(server: ContractServer):
    schema = {
        "type": "object",
        "required": ["rating", "n", "done"],
        "properties": {
            "rating": {"type": "string", "enum": ["Match", 'Say "no"']},
            "n": {"type": "integer"},
            "done": {"const": True},
            "why": {"type": "string", "maxLength": 5},
        },
    }
    answer = chat(server, format=schema, options={**OPTIONS, "num_predict": 200}).json
    value = json.loads(answer["message"]["content"])
    assert value["rating"] in ("Match", 'Say "no"') and isinstance(value["n"], int) and value["done"] is True
    assert len(value.get("why", "")) <= 5 and answer["done_reason"] == "stop"


def test_schemas_that_llama_cpp_refuses():
    with pytest.raises(SchemaError, match="error at #/a: unrecognized type odd"):
        grammar({"type": "object", "properties": {"a": {"type": "odd"}}})


# --- faults ---


def test_busy_as_recorded(server: ContractServer):
    server.fail("/api/chat", "busy", times=2)
    theirs = next(each for each in recorded("overload")["responses"] if each["status"] == 503)
    for _ in range(2):
        answer = chat(server)
        assert (answer.status, answer.json) == (503, {"error": theirs["error"]})
    assert chat(server).status == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_killed_runner_as_recorded(server: ContractServer, stream: bool):
    theirs = recorded(f"runner-killed-{'stream' if stream else 'nostream'}")["response"]
    server.fail("/api/chat", "runner-killed")
    answer = chat(server, stream=stream)
    assert (answer.status, answer.lines[-1]) == (theirs["status"], json.loads(theirs["last_line"]))
    assert len(answer.lines) > 1 or not stream
    assert chat(server).status == 200


def test_connections_that_break_as_recorded(server: ContractServer):
    assert recorded("server-killed-nostream")["response"]["client_saw"].startswith("RemoteDisconnected")
    server.fail("/api/chat", "closed")
    with pytest.raises(http.client.RemoteDisconnected):
        chat(server)
    assert recorded("server-killed-stream")["response"]["client_saw"] == "IncompleteRead"
    for stream in (True, False):
        server.fail("/api/chat", "cut")
        with pytest.raises(http.client.IncompleteRead):
            chat(server, stream=stream)
    assert chat(server).status == 200


def test_slow_answers_only_when_the_client_has_gone(server: ContractServer):
    server.fail("/api/tags", "slow")
    connection = http.client.HTTPConnection(server.host, timeout=0.1)
    connection.request("GET", "/api/tags")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert ask(server, "GET", "/api/tags").status == 200


def test_a_model_that_cannot_be_loaded(server: ContractServer):
    server.fail("/api/generate", "cannot-load")
    answer = ask(server, "POST", "/api/generate", {"model": "tiny", "prompt": "x"})
    assert answer.status == 500 and answer.json["error"].startswith("llama-server process has terminated: ")
    path = server.store.find("tiny").path("model")
    assert path
    path.write_bytes(path.read_bytes()[:4000])
    assert chat(server).status == 500


def test_no_room_for_an_upload(server: ContractServer):
    content = b"GGUF" * 1000
    path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    server.fail("/api/blobs", "no-space")
    assert ask(server, "HEAD", path).status == 404
    answer = ask(server, "POST", path, content)
    assert answer.status == 500 and answer.json["error"].endswith("no space left on device")
    assert ask(server, "POST", path, content).status == 201


def test_a_known_blob_is_refused_before_it_is_read(server: ContractServer):
    content = bytes(1 << 24)
    server.store.put(content)
    connection = http.client.HTTPConnection(server.host, timeout=60)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.request("POST", f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}", content)
    connection.close()


# --- the recordings themselves ---


def test_replays_the_recorded_bytes():
    with Replay.of("show", "chat-format-bad", "chat-stream", "blob-head", "create-stream") as server:
        for name in ("show", "chat-format-bad", "chat-stream", "create-stream"):
            exchange = recorded(name)
            request, response = exchange["request"], exchange["response"]
            answer = ask(server, request["method"], request["path"], request["json"])
            assert (answer.status, answer.content) == (response["status"], body_of(response))
            assert answer.headers["Content-Type"] == response["headers"]["Content-Type"]
        assert ask(server, "HEAD", recorded("blob-head")["request"]["path"]).status == 200
        assert not server.unknown
        assert ask(server, "POST", "/api/show", {"model": "other"}).status == 501
        assert [each.json for each in server.unknown] == [{"model": "other"}]


def test_equal_requests_are_replayed_in_turn():
    names = ("chat-format", "chat-format-again")
    request = recorded(names[0])["request"]
    with Replay.of(*names) as server:
        answers = [ask(server, "POST", "/api/chat", request["json"]).json for _ in range(3)]
    assert answers == [recorded(name)["response"]["json"] for name in (*names, names[-1])]


@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_whole(name: str):
    response = recorded(name)["response"]
    length = response["headers"].get("Content-Length")
    if length is not None and recorded(name)["request"]["method"] != "HEAD":
        assert len(body_of(response)) == int(length)
