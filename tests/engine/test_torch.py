"""The engine of our own decoder: the scores of llama.cpp and of the decoder asked token by token, on every thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import families
import tiny
from expertune.config import make_config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError
from expertune.gguf.read import GGUFFile
from expertune.predict.score import rate_examples
from expertune.predict.together import Together
from expertune.ratings.codes import LabelScoring, ScoredBy
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import answer_opening, make_scale
from expertune.ratings.schema import Example
from expertune.torch_engine import TorchEngine
from expertune.train.code_branch import choose_branch
from label_sets import ASK, LABEL_SETS, Decoder, split, summed
from llama import Served

CONFIG = make_config({"engine": "torch", "threads": 1, "device": "cpu", "compute_dtype": "fp32"})
CACHE_ROUNDING = 2e-3  # nats in one token: llama.cpp keeps keys and values in half precision, our decoder does not
# With a float32 cache llama.cpp gives our scores of this family (below); half precision moves them more than others'
LARGE_KEYS = {"gpt-oss": 4e-3}
GELU = 5e-3  # llama.cpp looks it up in a table (tests/parity/test_families.py)


@pytest.fixture(scope="module", params=["bpe", "spm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("torch") / "model.gguf", vocab=request.param)


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[TorchEngine]:
    with contextlib.closing(TorchEngine(model, CONFIG)) as engine:
        yield engine


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(model, threads=1) as served:
        yield served


@pytest.mark.parametrize("name", LABEL_SETS)
def test_labels_in_any_script(engine: TorchEngine, served: LlamaCppEngine, model: Path, name: str) -> None:
    prompt, answers = served.render(ASK), list(map(answer_opening, LABEL_SETS[name]))
    start, tails = split(served, prompt, LABEL_SETS[name])
    decoder = Decoder(model)
    expected = summed(start, tails, decoder.log_probs)
    decoder.close()
    ours, theirs = engine.score(prompt, answers).log_probs, served.score(prompt, answers).log_probs
    for our, their, right, tail in zip(ours, theirs, expected, tails, strict=True):
        assert our == pytest.approx(right, abs=1e-4)
        assert our == pytest.approx(their, abs=CACHE_ROUNDING * len(tail))


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in ("gemma3", "qwen35moe", "lfm2") else pytest.mark.slow)
             for each in families.FAMILIES]
)  # fmt: skip
def test_every_family_scores_as_llama_cpp(tmp_path: Path, name: str) -> None:
    family = families.FAMILIES[name]
    path = families.make(tmp_path / "model.gguf", family)
    labels = LABEL_SETS["english"]
    with LlamaCppEngine(path, threads=1) as served, contextlib.closing(TorchEngine(path, CONFIG)) as engine:
        prompts = [served.render([*ASK[:1], {"role": "user", "content": "cough " * count}]) for count in (1, 30, 9)]
        answers = list(map(answer_opening, labels))
        with ThreadPoolExecutor(len(prompts)) as pool:
            found = list(pool.map(lambda prompt: engine.score(prompt, answers).log_probs, prompts))
        cache = LARGE_KEYS.get(name, CACHE_ROUNDING)
        rounding = (GELU if family.gelu else 0.0) + max(cache, 3 * family.noise)
        for prompt, ours in zip(prompts, found, strict=True):
            theirs, (_, tails) = served.score(prompt, answers).log_probs, split(served, prompt, labels)
            for our, their, tail in zip(ours, theirs, tails, strict=True):
                assert our == pytest.approx(their, abs=rounding * len(tail))


@pytest.mark.slow
def test_the_half_precision_cache_is_what_moves_the_scores(tmp_path: Path) -> None:
    """gpt-oss differs most from the embedded engine; with a float32 cache llama.cpp gives our scores."""
    path, labels = families.make(tmp_path / "model.gguf", families.FAMILIES["gpt-oss"]), LABEL_SETS["english"]
    with LlamaCppEngine(path, threads=1) as served, contextlib.closing(TorchEngine(path, CONFIG)) as engine:
        prompt = served.render([*ASK[:1], {"role": "user", "content": "cough " * 9}])
        start, tails = split(served, prompt, labels)
        found = engine.score(prompt, list(map(answer_opening, labels))).log_probs
    with GGUFFile(path) as file:
        vocabulary = file.info("token_embd.weight").rows
    exact = Served(path)
    assert found == pytest.approx(
        summed(start, tails, lambda tokens: exact.log_probabilities(tokens, vocabulary)), abs=1e-4
    )


def test_threads_get_the_scores_of_their_own_record(engine: TorchEngine) -> None:
    """Records of many lengths and two sets of labels, more than are computed at once."""
    asked = [
        (engine.render([{"role": "user", "content": f"{row} cough and fever " * (1 + row % 7)}]), name)
        for row, name in enumerate(["english", "german", "english"] * 16)
    ]

    def score(each: tuple[str, str]) -> tuple[float, ...]:
        return engine.score(each[0], list(map(answer_opening, LABEL_SETS[each[1]]))).log_probs

    alone = list(map(score, asked))
    with ThreadPoolExecutor(engine.slots) as pool:
        together = list(pool.map(score, asked))
    assert len(set(alone)) == len(asked) > engine.slots
    for ours, expected in zip(together, alone, strict=True):
        assert ours == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["code", "both"])
def test_codes_are_scored_as_by_llama_cpp(engine: TorchEngine, served: LlamaCppEngine, by: ScoredBy) -> None:
    labels = LABEL_SETS["english"]
    scale = make_scale({label: value for value, label in enumerate(labels)})
    branch = choose_branch(served, served.render(ASK), len(labels))
    assert branch is not None
    examples = [
        Example(str(row), "test", chat_messages("cough " * (1 + row), scale, "x", branch), "", labels[0], 0)
        for row in range(5)
    ]
    ours, theirs = (rate_examples(each, examples, scale, scoring=LabelScoring(by, branch)) for each in (engine, served))
    assert len({each.probabilities for each in ours}) == len(examples)
    for our, their in zip(ours, theirs, strict=True):
        assert our.probabilities == pytest.approx(their.probabilities, abs=5 * CACHE_ROUNDING)


def test_texts_and_answers_are_llama_cpps(engine: TorchEngine, served: LlamaCppEngine) -> None:
    prompt = engine.render(ASK)
    assert prompt == served.render(ASK)
    assert engine.tokenize(prompt) == served.tokenize(prompt) and engine.turn_end() == served.turn_end()
    assert engine.continuation(prompt, "Match") == served.continuation(prompt, "Match")
    assert engine.generate(prompt, max_tokens=6) == served.generate(prompt, max_tokens=6)
    assert (engine.context, engine.file_bytes) == (served.context, served.file_bytes)
    assert engine.score(prompt, ["one"]).log_probs == served.score(prompt, ["one"]).log_probs == (0.0,)


def test_it_says_where_and_how_it_computed(engine: TorchEngine) -> None:
    assert "rated by Expertune's own decoder on cpu in float32" in engine.notes
    found = engine.describe()
    assert (found["engine"], found["device"], found["precision"], found["slots"]) == ("torch", "cpu", "float32", 32)


def test_a_long_prompt_is_refused_as_by_llama_cpp(engine: TorchEngine, served: LlamaCppEngine) -> None:
    for each in (engine, served):
        with pytest.raises(EngineError, match=r"need \d+ tokens but the context holds 512; shorten the row"):
            each.score("a b " * 600, ["yes.", "no."])
    assert engine.score(engine.render(ASK), ["yes.", "no."]).exact  # and the others are still answered


def test_an_architecture_that_our_decoder_does_not_read_is_refused(tmp_path: Path) -> None:
    path = tiny.make(tmp_path / "other.gguf", architecture="mamba")
    with pytest.raises(EngineError, match=r"^--engine torch: .*'mamba' is not one that it reads; leave out --engine t"):
        TorchEngine(path, CONFIG)


def test_an_error_reaches_every_caller_and_the_next_are_computed() -> None:
    sizes = []

    def compute(some: list[int]) -> list[float]:
        sizes.append(len(some))
        return [1 / each for each in some]

    together = Together(compute, 4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ZeroDivisionError):
        together(0)
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(together, range(1, 11))) == [1 / each for each in range(1, 11)]
    together.close()
    assert sum(sizes) == 11 and max(sizes) <= 4
