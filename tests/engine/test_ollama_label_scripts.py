"""Labels whose characters a model cuts into tokens: Ollama lists no figures for the parts, and none is made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import replies
import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.ollama.engine import OllamaEngine
from expertune.engine.ollama.score import PartOfCharacterError
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError
from expertune.ratings.scale import answer_opening
from label_sets import ASK, split
from ollama_contract.replay import recorded
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE

RECORDED = ["parts-of-characters", "parts-of-characters-cut"]  # faults/ of tests/data/ollama_exchanges
CHINESE = [answer_opening(label) for label in ("符合", "不符合")]
PLAIN = [answer_opening(label) for label in ("yes", "no")]


@pytest.fixture(scope="module")
def saying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says 符合 in six tokens: the one that the recorded server answered with."""
    folder = tmp_path_factory.mktemp("saying")
    prompt = recorded(RECORDED[0])["request"]["json"]["prompt"]
    with LlamaCppEngine(tiny.make(folder / "plain.gguf", layers=1), threads=1) as engine:
        ids, answer = engine.tokenize(prompt), engine.continuation(prompt, '符合",')
    assert len(answer) == 7
    return tiny.make(folder / "saying.gguf", layers=1, chains=[[ids[-1], *answer]])


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that would say 符合 and thinks of "yes" and "no" after it."""
    folder = tmp_path_factory.mktemp("torn")
    with LlamaCppEngine(tiny.make(folder / "plain.gguf", layers=1), threads=1) as engine:
        start, tails = split(engine, engine.render(ASK), ["符合", "yes", "no"])
    return tiny.make(folder / "torn.gguf", layers=1, chains=[[start[-1], *tail] for tail in tails])


@pytest.fixture(scope="module")
def served(saying: Path, torn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractServer]:
    with ContractServer(tmp_path_factory.mktemp("ollama") / "models") as server:
        server.add("tiny-saying", saying, template=TEMPLATE)
        server.add("torn", torn, template=TEMPLATE)
        yield server


@pytest.fixture
def server(served: ContractServer) -> Iterator[OllamaServer]:
    with OllamaServer(served.url, patience=5.0) as server:
        yield server


@pytest.mark.parametrize("name", RECORDED)
def test_the_tests_own_server_answers_as_recorded(served: ContractServer, name: str) -> None:
    exchange = recorded(name)
    ours = httpx.post(f"{served.url}/api/generate", json=exchange["request"]["json"], trust_env=False).json()
    theirs = exchange["response"]["json"]
    for field in ("response", "done", "done_reason", "prompt_eval_count", "eval_count"):
        assert ours[field] == theirs[field]
    assert _shown(ours) == _shown(theirs)
    for mine, other in zip(ours.get("logprobs") or [], theirs.get("logprobs") or [], strict=True):
        assert mine["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def _shown(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(each["token"], each.get("bytes")) for each in answer.get("logprobs") or []]


@pytest.mark.parametrize("name", RECORDED)
def test_a_whole_character_has_not_the_figure_of_its_last_part(server: OllamaServer, name: str) -> None:
    """Recorded: 符 is listed with -0.001, which is its third token's."""
    asked = recorded(name)["request"]["json"]
    with OllamaEngine(server, "tiny-saying", context=256) as engine:
        assert engine._generated_tokens(asked["prompt"], asked["options"]["num_predict"], None) == []


def test_without_the_file_such_labels_are_refused(server: OllamaServer) -> None:
    with OllamaEngine(server, "tiny-saying", context=512) as engine:
        with pytest.raises(EngineError, match=r"part of a character.*--engine llama\.cpp") as caught:
            engine.score(engine.render(ASK), CHINESE)
        assert "\n" not in str(caught.value)


def test_without_the_fallback_such_labels_are_refused(server: OllamaServer, saying: Path) -> None:
    with (
        OllamaEngine(server, "tiny-saying", context=512, file=saying, threads=1, fallback=False) as engine,
        pytest.raises(PartOfCharacterError),
    ):
        engine.score(engine.render(ASK), CHINESE)


def test_with_the_file_llama_cpp_scores_them(server: OllamaServer, saying: Path) -> None:
    with (
        OllamaEngine(server, "tiny-saying", context=512, file=saying, threads=1) as engine,
        LlamaCppEngine(saying, context=512, threads=1) as judge,
    ):
        prompt = engine.render(ASK)
        assert not any("llama.cpp" in note for note in engine.notes)
        for _ in range(2):
            scores = engine.score(prompt, CHINESE)
            assert scores.log_probs == pytest.approx(judge.score(prompt, CHINESE).log_probs, abs=1e-3)
            assert scores.exact
        assert sum("llama.cpp does, on the model's file" in note for note in engine.notes) == 1


def test_plain_labels_beside_a_likelier_part_of_a_character(server: OllamaServer, torn: Path) -> None:
    """The model's own next token is held back: what is listed after it belongs to later places."""
    with (
        OllamaEngine(server, "torn", context=512, file=torn, threads=1) as engine,
        LlamaCppEngine(torn, context=512, threads=1) as judge,
    ):
        prompt = engine.render(ASK)
        raw = engine._generate(prompt + '{"rating": "', 6, None, logprobs=True, top_logprobs=20)
        assert raw.response.startswith("符") and raw.eval_count > len(raw.logprobs or ())
        scores = engine.score(prompt, PLAIN)
        assert scores.log_probs == pytest.approx(judge.score(prompt, PLAIN).log_probs, abs=1e-4)
        assert scores.exact and not any("on the model's file" in note for note in engine.notes)


def test_an_answer_that_breaks_off_is_one_line(served: ContractServer) -> None:
    """Seen on 0.33.0-rc2, where an answer held a byte that begins a character and then plain text."""

    def answer(request: replies.Request) -> replies.Reply:
        if request.path == "/api/generate":
            return replies.json_reply({"model": "tiny-saying", "response": "≥ ", "done": False})
        theirs = httpx.request(request.method, served.url + request.path, content=request.body, trust_env=False)
        return replies.Reply(theirs.status_code, theirs.content)

    with (
        replies.serving(answer) as between,
        OllamaServer(between.url) as server,
        OllamaEngine(server, "tiny-saying", context=512) as engine,
        pytest.raises(EngineError, match=r"tiny-saying: Ollama 0\.33\S* broke the answer off"),
    ):
        engine.generate(engine.render(ASK))
