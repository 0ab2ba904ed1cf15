"""The tests' own Ollama server compared with exchanges recorded from a real one; and our client on those."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

import replies
import tiny
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import ExpertuneError
from ollama_contract.replay import recorded, recorded_names
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE

DISK = Path(__file__).parents[1] / "data/ollama"
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
TEXTS = {path.name.removeprefix("sha256-") for path in DISK.glob("blobs/*")}  # blobs that do not depend on the weights
# What our client asks. The rest of the recordings (streams, import and quantisation, adapters, cut prompts …) is for a
# real server: test_ollama_real.py.
SERVED = """
version tags-empty ps-empty unknown-path show-missing chat-missing show-bad-name blob-head-missing blob-wrong-digest
blob-bad-digest-form blob-post blob-head create-stream blob-post-odd create-odd create-nothing create-bad-name tags show
show-odd render-tiny render-tiny-odd chat-plain chat-format chat-format-again chat-logprobs chat-format-logprobs
chat-logprobs-21 chat-think-true chat-think-false chat-think-false-format chat-odd-format chat-odd-plain chat-prefill
chat-too-long-no-truncate chat-one-token generate-raw generate-raw-score-empty generate-raw-score-rating
generate-raw-grammar-score unload ps-after-unload copy delete delete-missing ctx-over-model
"""
NAMES = SERVED.split()
LEFT_OUT = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "tensors", "bytes"}


def ask(server: ContractServer, method: str, path: str, body: Any = None) -> httpx.Response:
    """One request; a body that is not bytes goes as JSON."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.request(method, server.url + path, content=content, trust_env=False, timeout=60)


def chat(server: ContractServer) -> httpx.Response:
    return ask(server, "POST", "/api/chat", recorded("chat-one-token")["request"]["json"])


# --- the recorded session, repeated with tiny models ---


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The uploads of the session under the names of their exchanges."""
    folder, odd = tmp_path_factory.mktemp("files"), recorded("show-odd")["response"]["json"]["template"]
    how: dict[str, Any] = {"vocab": "spm", "context": 2048}
    plain = tiny.make(folder / "plain.gguf", chat_template=None, **how)
    return {"blob-post": plain, "blob-post-odd": tiny.make(folder / "odd.gguf", chat_template=odd, **how)}


@pytest.fixture(scope="module")
def session(files: dict[str, Path]) -> dict[str, httpx.Response]:
    """The recorded requests in their order, with our files' digests in the place of theirs."""
    bodies = {"blob-wrong-digest": b"8 bytes.", "blob-bad-digest-form": b"x"}
    bodies |= {name: path.read_bytes() for name, path in files.items()}
    theirs = {name: DIGEST.findall(recorded(name)["request"]["path"])[0] for name in files}
    digests = {theirs[name]: hashlib.sha256(bodies[name]).hexdigest() for name in files}
    answers = {}
    with ContractServer(files["blob-post"].parent / "models") as server:
        for name in sorted(NAMES, key=recorded_names().index):
            request = recorded(name)["request"]
            text = json.dumps([request["path"], request.get("json")])
            path, body = json.loads(DIGEST.sub(lambda m: f"sha256:{digests.get(m[1], m[1])}", text))
            answers[name] = ask(server, request["method"], path, bodies.get(name, body))
    return answers


def odd_keys(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where our answer has not the form of the recorded one: keys all the way down, of a list the first element."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        odd = [f"{where}.{key}" for key in ours.keys() ^ theirs.keys() if key not in LEFT_OUT]
        return odd + [each for key in ours.keys() & theirs for each in odd_keys(ours[key], theirs[key], key)]
    if isinstance(ours, list) and isinstance(theirs, list):
        return odd_keys(ours[0], theirs[0], where) if ours and theirs else []
    kinds = [float if isinstance(each, int) else type(each) for each in (ours, theirs)]
    return [] if kinds[0] is kinds[1] or str(theirs).startswith("(left out here: ") else [where]


def words(text: str) -> str:
    """A text without what differs by file: digests of models, which layers are new, the folder, numbers."""
    text = DIGEST.sub(lambda match: match[0] if match[1] in TEXTS else "<digest>", text)
    text = re.sub(r"(/[^ :\n]*)+/blobs/", "<folder>/", text.replace("using existing", "creating new"))
    return re.sub(r'(?<=\()\d+|(?<=n_prompt_tokens":)\d+', "<number>", text)


def said(value: dict[str, Any]) -> dict[str, Any]:
    """The values that do not depend on the weights."""
    same = ("model", "done", "license", "system", "template", "capabilities", "_debug_info", "version")
    out = {key: value[key] for key in same if key in value}
    out |= {key: words(value[key]) for key in ("error", "status", "modelfile", "parameters") if key in value}
    return out | ({"done_reason": "unload"} if value.get("done_reason") == "unload" else {})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_answers_as_recorded(session: dict[str, httpx.Response], name: str) -> None:
    ours, theirs = session[name], recorded(name)["response"]
    assert ours.status_code == theirs["status"]
    kinds = [headers.get("Content-Type", "").split(";")[0] for headers in (ours.headers, theirs["headers"])]
    assert kinds[0] == kinds[1] or not ours.content
    if "lines" in theirs:
        assert [said(json.loads(line)) for line in ours.text.splitlines()] == list(map(said, theirs["lines"]))
    elif theirs.get("json") is None:
        assert ours.text == theirs.get("text", "")
    elif name != "ps-after-unload":
        assert odd_keys(ours.json(), theirs["json"]) == []
        assert said(ours.json()) == said(theirs["json"])


def test_the_values_are_consistent(session: dict[str, httpx.Response]) -> None:
    kind = "application/json"
    found = {name: each.json() for name, each in session.items() if kind in each.headers.get("Content-Type", "")}
    assert {each["name"] for each in found["tags"]["models"]} == {"tiny:latest", "tiny-odd:latest"}
    assert {each["name"] for each in found["ps-after-unload"]["models"]} == {"tiny-odd:latest"}
    plain, raw = found["chat-plain"], found["generate-raw-score-empty"]
    assert plain["done_reason"] == "length" and plain["prompt_eval_count"] == raw["prompt_eval_count"]
    (free,), (held,) = (found[f"generate-raw-{kind}"]["logprobs"] for kind in ("score-rating", "grammar-score"))
    assert held["token"] == '"' != free["token"] and held["logprob"] < free["logprob"]
    for one, other in zip(held["top_logprobs"], free["top_logprobs"], strict=True):  # from before any grammar
        assert one["token"] == other["token"] and math.isclose(one["logprob"], other["logprob"], abs_tol=1e-4)


def test_writes_the_layers_that_ollama_wrote(session: dict[str, httpx.Response], files: dict[str, Path]) -> None:
    folder = files["blob-post"].parent / "models"
    assert session["create-stream"].status_code == 200
    for path in ("tiny/latest", "tiny-odd/latest"):
        mine, theirs = (
            json.loads((root / "manifests/registry.ollama.ai/library" / path).read_text()) for root in (folder, DISK)
        )
        assert odd_keys(mine, theirs) == [] and mine["layers"][1:] == theirs["layers"][1:]  # all but the model's own


@pytest.fixture
def server(files: dict[str, Path], tmp_path: Path) -> Iterator[ContractServer]:
    with ContractServer(tmp_path / "models") as server:
        server.add("tiny", files["blob-post"], template=TEMPLATE)
        yield server


@pytest.mark.parametrize("label", ["match", "does-not-match", "unknown"])
def test_scores_a_forced_label_as_recorded(server: ContractServer, label: str) -> None:
    exchange = recorded(f"forced-score-{label}")
    ours = ask(server, "POST", "/api/generate", exchange["request"]["json"]).json()
    theirs = exchange["response"]["json"]
    assert odd_keys(ours, theirs) == [] and ours["response"].strip() == theirs["response"]
    assert "".join(each["token"] for each in ours["logprobs"]) == ours["response"]
    for one in (ours, theirs):  # the token that ends the answer is counted and not shown
        assert one["eval_count"] == len(one["logprobs"]) + (one["done_reason"] == "stop")


def test_faults_as_recorded(server: ContractServer) -> None:
    busy = next(each["error"] for each in recorded("overload")["responses"] if each["status"] == 503)
    killed = json.loads(recorded("runner-killed-nostream")["response"]["last_line"])["error"]
    for fault, status, error in (("busy", 503, busy), ("runner-killed", 500, killed)):
        server.fail("/api/chat", fault)
        answer = chat(server)
        assert (answer.status_code, answer.json()) == (status, {"error": error})
    seen = [recorded(f"server-killed-{how}")["response"]["client_saw"] for how in ("nostream", "stream")]
    assert seen[0].startswith("RemoteDisconnected") and seen[1] == "IncompleteRead"
    for fault, reason in (("closed", "without sending a response"), ("cut", "without sending complete message body")):
        server.fail("/api/chat", fault)
        with pytest.raises(httpx.RemoteProtocolError, match=reason):
            chat(server)
    assert chat(server).status_code == 200


# --- our client on the recorded bytes ---


@pytest.mark.slow
def test_our_client_reads_what_was_recorded() -> None:
    now: dict[str, Any] = {"json": {"version": "0.33.0"}}

    def answer(request: replies.Request) -> replies.Reply:
        return replies.Reply(200, "\n".join(map(json.dumps, now.get("lines") or [now["json"]])).encode())

    read = 0
    with replies.serving(answer) as server, OllamaServer(server.url) as client:
        for exchange in map(recorded, recorded_names()):
            request, now = exchange["request"], exchange["response"]
            if now["status"] != 200 or "text" in now:
                continue
            read += 1
            if "lines" not in now:
                assert client.ask(request["method"], request["path"], request.get("json")) == now["json"]
                continue
            with pytest.raises(ExpertuneError) if "error" in now["lines"][-1] else nullcontext():
                assert list(client.stream(request["path"], request["json"])) == now["lines"]
    assert read > 50
