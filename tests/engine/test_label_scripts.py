"""Labels in any script: their scores are those of their tokens, also where a token is only a part of a character."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.next_tokens import FREE_LOGPROBS, NextTokens
from expertune.errors import EngineError
from expertune.predict.score import softmax
from expertune.ratings.scale import answer_opening
from expertune.train.code_branch import choose_branch, code_tokens
from label_sets import ASK, LABEL_SETS, Decoder, split, summed

BASE = Path(__file__).parents[2] / "examples/base.gguf"
CACHE_ROUNDING = 2e-3  # nats in one token: llama.cpp keeps keys and values in half precision, our decoder does not


@pytest.fixture(scope="module", params=["bpe", "spm", "trained"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE, SentencePiece with byte fallback, and the small trained model, unpacked to float32."""
    path = tmp_path_factory.mktemp("scripts") / "model.gguf"
    return tiny.unpack(BASE, path) if request.param == "trained" else tiny.make(path, vocab=request.param)


@pytest.fixture(scope="module")
def decoder(model: Path) -> Iterator[Decoder]:
    decoder = Decoder(model)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(model, context=512, threads=1) as engine:
        yield engine


@pytest.mark.parametrize("name", LABEL_SETS)
def test_scores_are_our_decoders(engine: LlamaCppEngine, decoder: Decoder, name: str) -> None:
    prompt, labels = engine.render(ASK), LABEL_SETS[name]
    start, tails = split(engine, prompt, labels)
    expected = summed(start, tails, decoder.log_probs)
    scores = engine.score(prompt, [answer_opening(label) for label in labels]).log_probs
    for score, right, tail in zip(scores, expected, tails, strict=True):
        assert score == pytest.approx(right, abs=CACHE_ROUNDING * len(tail))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chinese", "symbol", "hebrew", "emoji"])
def test_scores_are_those_of_the_whole_vocabulary(engine: LlamaCppEngine, name: str) -> None:
    """Against llama.cpp itself, which lists every token of the vocabulary where a newline is sampled."""
    prompt, labels = engine.render(ASK), LABEL_SETS[name]
    start, tails = split(engine, prompt, labels)

    def log_probs(tokens: list[int]) -> dict[int, float]:
        settings = {"n_predict": 1, "n_probs": 100_000, "logit_bias": [[engine._newline, 1e6]]}
        (first,) = engine._server.ask("/completion", {"prompt": tokens, **settings})["completion_probabilities"]
        found = {each["id"]: each["logprob"] for each in first["top_logprobs"]}
        assert math.fsum(map(math.exp, found.values())) == pytest.approx(1, abs=1e-4)
        return found

    answers = [answer_opening(label) for label in labels]
    engine.score(prompt, answers)  # the prompt is in the cache from here on: each token is computed alike
    scores, expected = engine.score(prompt, answers).log_probs, summed(start, tails, log_probs)
    for score, right, tail in zip(scores, expected, tails, strict=True):
        assert score == pytest.approx(right, abs=1e-4 * len(tail))


@pytest.mark.slow
def test_codes_take_one_question(engine: LlamaCppEngine, decoder: Decoder) -> None:
    prompt, asked = engine.render(ASK), []
    branch = choose_branch(engine, prompt, 3)
    assert branch is not None
    ask = engine._server.ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._server, "ask", lambda path, body=None: asked.append(path) or ask(path, body))
        scores = engine.score(prompt, branch.answers()).log_probs
    assert asked.count("/completion") == 1
    found = code_tokens(engine, prompt, branch)
    log_V = decoder.log_probs([*engine.tokenize(prompt), *found.lead])
    shares = softmax([log_V[code] for code in found.codes])
    assert softmax(scores) == pytest.approx(shares, abs=CACHE_ROUNDING)


def test_unlikely_tokens_are_compared_in_one_question(engine: LlamaCppEngine, decoder: Decoder) -> None:
    """More of them than llama.cpp lists of its own."""
    letters = engine._tokens("\n".join(string.printable), begin=False, special=False)
    start, wanted = engine.tokenize(engine.render(ASK)), sorted({token for token, _ in letters})
    assert len(wanted) > FREE_LOGPROBS
    log_V, asked = decoder.log_probs(start), []

    def complete(body: Mapping[str, Any], kind: type[Any]) -> Any:
        asked.append(body)
        return engine._complete(body, kind)

    after = NextTokens(complete, start, 0, stand_in=engine._newline, unlisted=set())
    found = after.forced([], wanted)
    assert [found[token] for token in wanted] == pytest.approx([log_V[t] for t in wanted], abs=2 * CACHE_ROUNDING)
    assert len(asked) == 2, "the first one, and all others"
    found = after.alike(wanted)
    shift = sum(log_V[token] - found[token] for token in wanted) / len(wanted)
    expected = [log_V[token] - shift for token in wanted]
    assert [found[token] for token in wanted] == pytest.approx(expected, abs=2 * CACHE_ROUNDING)
    assert len(asked) == 3


def test_the_labels_are_cut_inside_their_characters(engine: LlamaCppEngine) -> None:
    """What the test above is about: llama.cpp lists nothing for a token that begins a character without ending it."""
    prompt = engine.render(ASK)
    for name, labels in LABEL_SETS.items():
        ids, (first, *_) = engine.spelled(prompt, [answer_opening(label) for label in labels])
        cut = [at for at, (_, piece) in enumerate(first) if piece[:1] >= b"\xc0" and not _whole(piece)]
        assert bool(cut) == (name != "english"), name
        for at in cut[:1]:
            body = {
                "prompt": [*ids, *(token for token, _ in first[:at])],
                "n_predict": 1,
                "n_probs": 5,
                "logit_bias": [[first[at][0], 1e6]],
            }
            assert "completion_probabilities" not in engine._server.ask("/completion", body)


def _whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    "labels", [["符合", "不符合"], ["符合", "无关"], ["👍", "no"], ["≥ 5", "below 5"], ["yes", "no"]], ids=str
)
@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_a_model_that_says_a_label_itself(tmp_path: Path, vocab: str, labels: list[str]) -> None:
    """Its own way leads through parts of characters, and llama.cpp lists fewer log-probabilities than tokens."""
    answers = [answer_opening(label) for label in labels]
    with LlamaCppEngine(tiny.make(tmp_path / "silent.gguf", vocab=vocab, layers=1), threads=1) as engine:
        prompt = engine.render(ASK)
        start, tails = split(engine, prompt, labels)
    path = tiny.make(tmp_path / "saying.gguf", vocab=vocab, layers=1, chains=[[start[-1], *tails[0]]])
    decoder = Decoder(path)
    expected = summed(start, tails, decoder.log_probs)
    decoder.close()
    with LlamaCppEngine(path, threads=1) as engine:
        body = {"prompt": start, "n_predict": len(tails[0]), "temperature": 0, "n_probs": 1, "return_tokens": True}
        own = engine._server.ask("/completion", body)
        assert own["tokens"] == tails[0], "the model does not say its label"
        assert (len(own.get("completion_probabilities", [])) < len(tails[0])) == (not labels[0].isascii())
        for _ in range(2):  # the second time it is known which tokens are not listed
            for score, right, tail in zip(engine.score(prompt, answers).log_probs, expected, tails, strict=True):
                assert score == pytest.approx(right, abs=CACHE_ROUNDING * len(tail))


def test_a_model_that_stumbles_over_parts_of_characters(tmp_path: Path) -> None:
    """Random weights that like the bytes of a label say them in any order: no figure is filed under another place."""
    labels = LABEL_SETS["chinese"]
    with LlamaCppEngine(tiny.make(tmp_path / "silent.gguf"), threads=1) as engine:
        prompt = engine.render(ASK)
        _, tails = split(engine, prompt, labels)
    path = tiny.make(tmp_path / "stumbling.gguf", favour=sorted({token for tail in tails for token in tail}))
    decoder = Decoder(path)
    held_back = 0
    with LlamaCppEngine(path, threads=1) as engine:
        for visit in ("cough", "fever", "injury", "a fall", "chest pain"):
            prompt = engine.render([{"role": "user", "content": visit}])
            start, tails = split(engine, prompt, labels)
            after = NextTokens(engine._complete, start, 0, stand_in=engine._newline, unlisted=set())
            walked = after.walk([], 12)
            held_back += not walked[-1][1]
            for at, (token, figures) in enumerate(walked):
                log_V = decoder.log_probs([*start, *(said for said, _ in walked[:at])])
                assert all(abs(log_V[other] - figure) < 5e-3 for other, figure in figures.items())
                assert token in figures or at == len(walked) - 1
            expected = summed(start, tails, decoder.log_probs)
            scores = engine.score(prompt, [answer_opening(label) for label in labels]).log_probs
            for score, right, tail in zip(scores, expected, tails, strict=True):
                assert score == pytest.approx(right, abs=CACHE_ROUNDING * len(tail))
    decoder.close()
    assert held_back


# --- what llama.cpp's server answers, written by hand ---


def answering(**fields: Any) -> NextTokens:
    return NextTokens(lambda body, kind: kind.model_validate(fields), [1], 0, stand_in=10, unlisted={7})


def entry(token: int, **others: float) -> dict[str, Any]:
    listed = [{"id": int(name[1:]), "logprob": value} for name, value in others.items()]
    return {"id": token, "logprob": -1.0, "top_logprobs": listed}


@pytest.mark.parametrize(
    ("said", "listed", "expected"),
    [
        ([5, 6], [5, 6], [5, 6]),
        ([5, 7, 8, 6], [5, 8, 6], [5]),
        ([7, 8, 6], [6], []),
        ([5, 7], [5], [5]),
        ([240, 159, 159, 159], [159], []),  # a character of four bytes, three of them alike: only the last is listed
    ],
)
def test_a_walk_ends_where_a_token_is_held_back(said: list[int], listed: list[int], expected: list[int]) -> None:
    after = answering(tokens=said, completion_probabilities=[entry(token) for token in listed])
    walked = after.walk([], len(said))
    assert [token for token, figures in walked if figures] == expected
    assert [token for token, _ in walked] == said[: len(expected) + 1]


def test_a_walk_through_nothing_but_parts_of_characters() -> None:
    assert answering(tokens=[7, 7]).walk([], 2) == [(7, {})]


def test_another_token_than_the_wanted_one_is_an_error() -> None:
    with pytest.raises(EngineError, match="did not take token 6"):
        answering(tokens=[5], completion_probabilities=[entry(5)]).forced([], [6])


@pytest.mark.parametrize("share", [1e-20, 0.0, None])
def test_a_token_of_hardly_any_probability_has_a_finite_score(share: float | None) -> None:
    def complete(body: Mapping[str, Any], kind: type[Any]) -> Any:
        if "post_sampling_probs" not in body:
            return kind.model_validate({"tokens": [10], "completion_probabilities": [entry(10, t3=-0.5)]})
        top = [{"id": 10, "prob": 1.0}, *([] if share is None else [{"id": 7, "prob": share}])]
        return kind.model_validate({"tokens": [10], "completion_probabilities": [{"id": 10, "top_probs": top}]})

    after = NextTokens(complete, [1], 0, stand_in=10, unlisted={7})
    # the stand-in has -1 and is raised by 20 nats over the likeliest token's -0.5
    assert after.forced([], [7])[7] == pytest.approx(-1 + math.log(share or 1e-45) + 20.5)
