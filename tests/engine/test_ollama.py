"""Ollama as an engine: its scores are those of the embedded engine on the same file, its faults are one line."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.next_tokens import NextTokens
from expertune.engine.ollama.engine import OllamaEngine
from expertune.engine.ollama.render import OllamaRenderer
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError, UsageError
from expertune.modelset.config import output_schema
from expertune.ratings.scale import answer_opening
from ollama_contract.faults import Fault
from ollama_contract.server import ContractServer
from ollama_contract.templates import FOLDING, TEMPLATE

LABELS = ["Match", "Does Not Match", "Unknown"]
OPENINGS = [answer_opening(label) for label in LABELS]
ODD = (  # a template like none that Ollama knows: recorded as tiny-odd
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[[SYS]]{{ m['content'] | trim }}[[/SYS]]"
    "{% elif m['role'] == 'user' %}Q: {{ m['content'] | trim }} ;; {% else %}A: {{ m['content'] | trim }}"
    "{{ eos_token }} {% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
)
TALK = [
    {"role": "system", "content": "You rate emergency visits against a topic."},
    {"role": "user", "content": "Topic: respiratory infections\nVisit: 34F cough x3 days, fever 38.9, SOB"},
]
LONG = [{"role": "user", "content": "cough fever " * 400}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that has the labels in mind, and one that has not."""
    folder = tmp_path_factory.mktemp("files")
    stranger = tiny.make(folder / "stranger.gguf", layers=1, chat_template=ODD)
    with LlamaCppEngine(stranger, threads=1) as engine:
        prompt = engine.render(TALK)
        tokens = {token for answer in engine.spelled(prompt, OPENINGS)[1] for token, _ in answer}
    knowing = tiny.make(folder / "knowing.gguf", layers=1, favour=sorted(tokens), chat_template=ODD)
    return {"knowing": knowing, "stranger": stranger}


@pytest.fixture(scope="module")
def served(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractServer]:
    with ContractServer(tmp_path_factory.mktemp("ollama") / "models") as server:
        for name, file in files.items():
            server.add(
                name, file, template=TEMPLATE, system="You rate.", parameters={"temperature": 0.7, "num_ctx": 64}
            )
            server.add(f"{name}-jinja", file)
        server.add("folding", files["stranger"], template=FOLDING)
        yield server


@pytest.fixture
def server(served: ContractServer) -> Iterator[OllamaServer]:
    with OllamaServer(served.url, patience=5.0) as server:
        yield server


def embedded(file: Path, renderer: OllamaRenderer | None = None) -> LlamaCppEngine:
    return LlamaCppEngine(file, context=512, threads=1, renderer=renderer)


# --- scores ---


@pytest.mark.parametrize("template", ["", "-jinja"])
def test_scores_are_those_of_the_embedded_engine(server: OllamaServer, files: dict[str, Path], template: str) -> None:
    file = files["knowing"]
    with OllamaEngine(server, f"knowing{template}", context=512, file=file, threads=1) as engine:
        prompt = engine.render(TALK)
        ours = engine.score(prompt, OPENINGS)
        assert ours.exact
        with embedded(file) as judge:
            assert ours.log_probs == pytest.approx(judge.score(prompt, OPENINGS).log_probs, abs=1e-4)
        assert len(set(ours.log_probs)) == len(LABELS)


def test_a_label_that_no_alternative_shows_is_compared_by_force_and_said(
    server: OllamaServer, files: dict[str, Path]
) -> None:
    with OllamaEngine(server, "stranger", context=512, file=files["stranger"], threads=1) as engine:
        prompt = engine.render(TALK)
        scores = engine.score(prompt, OPENINGS)
        assert not scores.exact
        lead = '{"rating": '
        for label, score in zip(LABELS, scores.log_probs, strict=True):
            # the same tokens, whatever they are, one by one through the embedded engine
            said = engine._generated_tokens(prompt + lead, 64, {"type": "string", "enum": [label]})
            pieces, wanted = [], json.dumps(label).encode()
            while len(b"".join(pieces)) < len(wanted):
                pieces.append(said[len(pieces)].piece)
            assert score == pytest.approx(_path_score(files["stranger"], prompt + lead, pieces), abs=1e-3)


def _path_score(file: Path, prompt: str, pieces: list[bytes]) -> float:
    """The log-probability of tokens with these bytes after `prompt`, by llama.cpp itself."""
    with embedded(file) as engine:
        ids, total = engine.tokenize(prompt), 0.0
        vocabulary = {
            piece: token
            for token, piece in engine._tokens("".join(map(bytes.decode, pieces)), begin=False, special=False)
        }
        for piece in pieces:
            found = vocabulary.get(piece)
            token = found if found is not None else engine._tokens(piece.decode(), begin=False, special=False)[0][0]
            following = NextTokens(engine._complete, ids, 0, stand_in=engine._newline, unlisted=set())
            total += following.forced([], [token])[token]
            ids.append(token)
    return total


def test_without_the_file_the_likeliest_split_stands_for_a_label(server: OllamaServer, files: dict[str, Path]) -> None:
    with OllamaEngine(server, "knowing", context=512) as engine:
        scores = engine.score(engine.render(TALK), OPENINGS).log_probs
        assert any("not on this machine" in note for note in engine.notes)
        assert all(math.isfinite(score) for score in scores)
        with pytest.raises(EngineError, match="its file is not on this machine"):
            engine.tokenize("x")
        assert engine.count_tokens("cough") > 0


def test_a_model_that_would_rather_end_its_turn_still_shows_its_alternatives(
    served: ContractServer, server: OllamaServer, tmp_path: Path
) -> None:
    """An end of turn is counted but not listed among the log-probabilities."""
    plain = tiny.make(tmp_path / "plain.gguf", layers=1)
    with LlamaCppEngine(plain, threads=1) as engine:
        end = engine._eos()
    file = tiny.make(tmp_path / "ending.gguf", layers=1, favour=[end])
    served.add("ending", file, template=TEMPLATE)
    with OllamaEngine(server, "ending", context=512, file=file, threads=1) as engine:
        prompt = engine.render(TALK)
        assert engine._generated_tokens(prompt, 4, None) == []
        assert all(math.isfinite(score) for score in engine.score(prompt, OPENINGS).log_probs)
    with OllamaEngine(server, "ending", context=512) as engine:
        assert all(math.isfinite(score) for score in engine.score(prompt, OPENINGS).log_probs)


def test_answers_of_another_form_are_refused(server: OllamaServer, files: dict[str, Path]) -> None:
    with OllamaEngine(server, "stranger", context=512) as engine, pytest.raises(EngineError, match="JSON"):
        engine.score("x", ["yes", "no"])


# --- rendering and tokens ---


@pytest.mark.parametrize("name", ["knowing", "knowing-jinja"])
def test_the_server_writes_the_prompt_and_counts_as_we_do(
    server: OllamaServer, files: dict[str, Path], name: str
) -> None:
    with OllamaEngine(server, name, context=512, file=files["knowing"], threads=1) as engine:
        prompt = engine.render(TALK)
        assert ("<|system|>" in prompt) == (name == "knowing")
        assert engine.count_tokens(prompt) == len(engine.tokenize(prompt))
        chat = engine.chat(TALK, max_tokens=1)
        assert chat.prompt_tokens == engine.count_tokens(prompt)


def test_a_template_without_a_system_role_gets_its_text_in_the_users_message(server: OllamaServer) -> None:
    with OllamaEngine(server, "folding", context=512) as engine:
        assert engine.folds_system
        assert engine.render(TALK) == f"Q: {TALK[0]['content']}\n{TALK[1]['content']}\nA:"
        assert any("no system role" in note for note in engine.notes)


def test_a_prompt_is_rendered_once(served: ContractServer, server: OllamaServer) -> None:
    renderer = OllamaRenderer(server, "knowing", context=512)
    before = len(served.requests)
    assert renderer(TALK) == renderer(TALK)
    assert len(served.requests) == before + 1


# --- answers ---


def test_every_request_says_its_context_and_cuts_nothing(served: ContractServer, server: OllamaServer) -> None:
    begin = len(served.requests)
    with OllamaEngine(server, "knowing", context=256) as engine:
        engine.generate(engine.render(TALK), schema=output_schema(LABELS), max_tokens=20)
        engine.chat(TALK, max_tokens=2)
        engine.score(engine.render(TALK), OPENINGS)
    bodies = [each.json for each in served.requests[begin:] if each.path in ("/api/chat", "/api/generate")]
    assert len(bodies) > 3
    for body in bodies:
        assert body["options"]["num_ctx"] == 256 and body["truncate"] is False and body["stream"] is False
        if "_debug_render_only" not in body:
            assert body["options"]["temperature"] == 0 and body["options"]["seed"] == 1


def test_a_longer_prompt_is_refused_never_cut(server: OllamaServer) -> None:
    with OllamaEngine(server, "knowing", context=256) as engine:
        with pytest.raises(
            EngineError, match=r"knowing: a prompt needs \d+ tokens but the context holds 256"
        ) as caught:
            engine.generate(engine.render(LONG), max_tokens=4)
        assert "\n" not in str(caught.value)
        with pytest.raises(EngineError, match="context holds 256"):
            engine.score(engine.render(LONG), OPENINGS)


def test_from_chat_to_raw_generate_where_chat_fails_its_schema(served: ContractServer, server: OllamaServer) -> None:
    """Recorded: a model without a template layer refuses chat with `format`; the raw prompt works."""
    schema = {"type": "object", "properties": {"rating": {"type": "string", "enum": LABELS}}, "required": ["rating"]}
    with OllamaEngine(server, "knowing-jinja", context=512) as engine:
        before = len(served.requests)
        answer = engine.chat(TALK, schema=schema, max_tokens=100)
        paths = [each.path for each in served.requests[before:]]
        assert paths[0] == "/api/chat" and paths[-1] == "/api/generate"
        assert json.loads(answer.text)["rating"] in LABELS


def test_the_greedy_answer_ignores_the_models_own_temperature(server: OllamaServer, files: dict[str, Path]) -> None:
    with OllamaEngine(server, "stranger", context=512) as engine, embedded(files["stranger"]) as judge:
        prompt = engine.render(TALK)
        assert engine.generate(prompt, max_tokens=12).text == judge.generate(prompt, max_tokens=12).text


# --- what is refused ---


def test_a_missing_model(server: OllamaServer) -> None:
    with pytest.raises(UsageError, match=r"absent.*not in Ollama"):
        OllamaEngine(server, "absent")


@pytest.mark.parametrize(
    ("version", "reason"),
    [("0.12.10", "no log-probabilities.*0.12.11"), ("0.11.4", "0.12.11"), ("0.5.0", "0.12.11")],
)
def test_an_old_server(tmp_path: Path, files: dict[str, Path], version: str, reason: str) -> None:
    with ContractServer(tmp_path / "models", version=version) as old:
        old.add("tiny", files["stranger"], template=TEMPLATE)
        with OllamaServer(old.url) as server, pytest.raises(EngineError, match=reason):
            OllamaEngine(server, "tiny")


def test_a_server_that_does_not_show_its_prompts(tmp_path: Path, files: dict[str, Path]) -> None:
    with ContractServer(tmp_path / "models", version="0.11.4") as old:
        old.add("tiny", files["stranger"], template=TEMPLATE)
        with OllamaServer(old.url) as server, pytest.raises(EngineError, match=r"0\.11\.4 does not show the prompts"):
            OllamaRenderer(server, "tiny", context=64)


@pytest.mark.parametrize("field", ["remote_host", "remote_model"])
def test_no_text_goes_to_the_cloud(server: OllamaServer, field: str) -> None:
    """show's own fields for a cloud model; the server that is asked here has none."""
    shown: dict[str, Any] = server.show("knowing") | {field: "https://ollama.com:443"}
    with pytest.raises(EngineError, match=r"knowing: runs in Ollama's cloud .* leave this machine"):
        OllamaRenderer(server, "knowing", context=64, shown=shown)


# --- faults: nothing lost, nothing twice ---


@pytest.mark.parametrize("fault", ["busy", "runner-killed", "closed", "cut"])
def test_a_fault_is_waited_out(
    served: ContractServer, server: OllamaServer, files: dict[str, Path], fault: str
) -> None:
    with OllamaEngine(server, "knowing", context=512, file=files["knowing"], threads=1) as engine:
        prompt = engine.render(TALK)
        expected = engine.score(prompt, OPENINGS).log_probs
        served.fail("/api/generate", fault, times=2)
        assert engine.score(prompt, OPENINGS).log_probs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("fault", ["busy", "runner-killed", "closed", "cut", "cannot-load"])
def test_a_fault_that_stays_is_one_line(served: ContractServer, files: dict[str, Path], fault: str) -> None:
    with OllamaServer(served.url, patience=0.3) as server, OllamaEngine(server, "knowing", context=512) as engine:
        prompt = engine.render(TALK)
        served.fail("/api/generate", fault, times=50)
        start = time.monotonic()
        with pytest.raises(EngineError) as caught:
            engine.generate(prompt, max_tokens=2)
        served.heal()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
        assert time.monotonic() - start < 30


@pytest.mark.slow
def test_a_time_out_is_tried_again(served: ContractServer, files: dict[str, Path]) -> None:
    served.heal()
    with OllamaServer(served.url, patience=20, timeout=1.0) as server, OllamaEngine(server, "knowing") as engine:
        prompt = engine.render(TALK)
        served.fail("/api/generate", "slow", times=1)
        assert engine.generate(prompt, max_tokens=2).answer_tokens == 2


def test_the_memory_is_given_back(served: ContractServer, server: OllamaServer) -> None:
    with OllamaEngine(server, "knowing", context=512) as engine:
        engine.render([*TALK, {"role": "user", "content": "again"}])
    server.unload("knowing")
    assert "knowing:latest" not in {each["name"] for each in server.ask("GET", "/api/ps")["models"]}
    server.unload("knowing")  # what is not loaded is left alone


def test_every_request_that_loads_the_model_says_how_long(served: ContractServer) -> None:
    """Else OLLAMA_KEEP_ALIVE=0 on the server would load it anew for each."""
    seen = len(served.requests)
    with OllamaServer(served.url) as server, OllamaEngine(server, "knowing", context=512) as engine:
        engine.score(engine.render(TALK), OPENINGS)
        engine.chat(TALK, max_tokens=2)
    loading = [each.json for each in served.requests[seen:] if each.path in ("/api/chat", "/api/generate")]
    assert [body["keep_alive"] for body in loading] == ["5m"] * (len(loading) - 1) + [0] and len(loading) > 3


@pytest.mark.parametrize("error", [None, EngineError("gone"), KeyboardInterrupt()])
def test_the_model_is_unloaded_at_the_end(served: ContractServer, error: BaseException | None) -> None:
    """Also after an error and after Ctrl-C, and where other models were asked for their prompts only."""
    with suppress(EngineError, KeyboardInterrupt), OllamaServer(served.url) as server:
        OllamaRenderer(server, "stranger-jinja", context=512)
        with OllamaEngine(server, "knowing", context=512) as engine:
            engine.score(engine.render(TALK), OPENINGS)
            assert {"knowing:latest", "stranger-jinja:latest"} <= set(served.generator.loaded)
            if error is not None:
                raise error
    assert not {"knowing:latest", "stranger-jinja:latest"} & set(served.generator.loaded)


@pytest.mark.parametrize("path", ["/api/ps", "/api/generate"])
@pytest.mark.parametrize("fault", ["closed", "busy", "cut"])
def test_an_end_that_cannot_unload_is_an_end(served: ContractServer, fault: Fault, path: str) -> None:
    with OllamaServer(served.url) as server:
        OllamaRenderer(server, "knowing", context=512)
        served.fail(path, fault)
    served.heal()


def test_a_model_is_unloaded_before_it_is_deleted(served: ContractServer) -> None:
    with OllamaServer(served.url) as server:
        server.copy("knowing", "short-lived")
        OllamaRenderer(server, "short-lived", context=512)
        seen = len(served.requests)
        server.delete("short-lived")
    paths = [each.path for each in served.requests[seen:]]
    assert paths == ["/api/ps", "/api/generate", "/api/delete"]


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no Ollama server answers at http://127\.0\.0\.1:9; start it"):
        OllamaServer("127.0.0.1:9")
    shutil.rmtree(tmp_path)
