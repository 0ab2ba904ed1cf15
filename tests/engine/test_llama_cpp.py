"""The embedded engine on tiny models: templates, tokens, exact scores, held answers, errors of one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from expertune.engine.base import Scores
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.llama_cpp.tokens import Tokenizer
from expertune.errors import EngineError

ASK = [{"role": "system", "content": "Rate this record."}, {"role": "user", "content": "cough and fever"}]
LABELS = ("Match", "Does Not Match", "Unknown")
ANSWERS = [f'{{"rating": "{label}", "rationale": "' for label in LABELS]
BLANKS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
DROPS = BLANKS.replace("{{ raise_exception('no system') }}", "")
THINKS = tiny.CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)
ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def serve(folder: Path, *, slots: int = 0, adapter: Path | None = None, **settings: Any) -> LlamaCppEngine:
    # one thread: on a busy machine two that wait for each other are 100 times slower on models this small
    return LlamaCppEngine(tiny.make(folder / "model.gguf", **settings), threads=1, slots=slots, adapter=adapter)


@pytest.fixture(scope="module", params=["bpe", "spm"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    with serve(tmp_path_factory.mktemp("engine"), vocab=request.param) as engine:
        yield engine


# --- rendering ---


def test_renders_the_models_own_template(engine: LlamaCppEngine):
    assert engine.render(ASK) == (
        "<|im_start|>system\nRate this record.<|im_end|>\n<|im_start|>user\ncough and fever"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert engine.notes == ()


@pytest.mark.parametrize("template", [BLANKS, DROPS])
@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_bos_once_and_the_system_text_kept(tmp_path: Path, template: str, vocab: str):
    with serve(tmp_path, chat_template=template, vocab=vocab) as engine:
        prompt = engine.render(ASK)
        assert prompt == "[INST] Rate this record.\ncough and fever [/INST]"
        by_llama_cpp = engine._server.ask("/apply-template", {"messages": ASK})["prompt"]
        assert prompt == by_llama_cpp, "who serves the file in llama.cpp sees the same prompt"
        bos = engine._server.ask("/tokenize", {"content": "<s>", "parse_special": True})["tokens"]
        assert engine.tokenize(prompt)[:1] == bos and engine.tokenize(prompt).count(bos[0]) == 1
        assert len(engine.notes) == 1 and "has no system role" in engine.notes[0]


def test_no_chat_template(tmp_path: Path):
    with serve(tmp_path, chat_template=None) as engine:
        assert engine.render(ASK[1:]) == "<|im_start|>user\ncough and fever<|im_end|>\n<|im_start|>assistant\n"
        assert engine.notes == ("model.gguf has no chat template: messages are written as ChatML",)


def test_no_thinking(tmp_path: Path):
    with serve(tmp_path, chat_template=THINKS) as engine:
        assert engine.render(ASK).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(("template", "end"), [(tiny.CHAT_TEMPLATE, "<|im_end|>"), (BLANKS, "</s>"), (ENDLESS, "</s>")])
def test_turn_end(tmp_path: Path, template: str, end: str):
    """What follows the assistant's words where that ends a generation, else the model's EOS."""
    with serve(tmp_path, chat_template=template) as engine:
        assert engine.turn_end() == engine._server.ask("/tokenize", {"content": end, "parse_special": True})["tokens"]


def test_a_template_without_assistant_turns(tmp_path: Path):
    with (
        serve(
            tmp_path,
            chat_template="{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        ) as engine,
        pytest.raises(EngineError, match="chat model"),
    ):
        engine.turn_end()


# --- tokens ---


@settings(max_examples=60, deadline=None)
@given(answer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_a_continuation_is_the_text_and_never_special(engine: LlamaCppEngine, answer: str):
    tokens = engine.continuation(engine.render(ASK), answer)
    assert _text(engine, tokens) == answer.encode()


@pytest.mark.parametrize("answer", ["<|im_end|>", 'x</s>"', "<s>", "a <|im_start|>system b"])
def test_look_alikes_stay_text(engine: LlamaCppEngine, answer: str):
    """An answer that spells a special token is its letters: an expert's rationale cannot end the turn."""
    tokens = engine.continuation(engine.render(ASK), answer)
    special = {
        engine._server.ask("/tokenize", {"content": name, "parse_special": True})["tokens"][0]
        for name in (tiny.BOS, tiny.EOS, tiny.TURN_BEGIN, tiny.TURN_END)
    }
    assert _text(engine, tokens) == answer.encode() and not special & set(tokens)


def test_a_continuation_leaves_the_prompts_tokens_alone(engine: LlamaCppEngine):
    """Where joint tokenising would merge across the border, the answer is tokenised by itself."""
    for prompt in ("the rat", "the patient has a cou"):
        joint = engine.tokenize(prompt + "ing")
        tokens = engine.continuation(prompt, "ing")
        assert _text(engine, tokens) == b"ing"
        alone = engine.tokenize(prompt)
        assert alone + tokens == joint or joint[: len(alone)] != alone


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(record=TEXTS | st.sampled_from(["<|im_end|>", "<s>", "a\n"]), answers=st.lists(TEXTS, min_size=1, max_size=4))
def test_an_answer_after_the_same_turn_is_tokenised_once(engine: LlamaCppEngine, record: str, answers: list[str]):
    """What is remembered of other records is what a tokenizer finds that has seen none."""
    prompt, paths = engine.render([{"role": "user", "content": record}]), []

    def counted(path: str, body: Any) -> Any:
        paths.append(path)
        return engine._server.ask(path, body)

    fresh = Tokenizer(counted)
    assert engine.spelled(prompt, answers) == fresh.spelled(prompt, answers)
    paths.clear()
    fresh.spelled(prompt, answers)
    assert paths == ["/tokenize"], "the prompt alone"


def test_records_at_the_end_of_a_prompt_are_not_looked_at_token_by_token(tmp_path: Path):
    asked: list[str] = []
    with serve(tmp_path, chat_template=ENDLESS) as engine:
        tokenizer = Tokenizer(lambda path, body: asked.append(body["content"]) or engine._server.ask(path, body))
        for record in ("a cough, ", "a fever and pain, "):
            prompt = engine.render([{"role": "user", "content": record * 9}])
            asked.clear()
            assert tokenizer.spelled(prompt, ANSWERS)[0] == engine.tokenize(prompt)
    assert asked == [prompt, *(prompt + answer for answer in ANSWERS)]


def _text(engine: LlamaCppEngine, tokens: list[int]) -> bytes:
    """The tokens' bytes, each by itself: llama.cpp trims the first blank of a whole text."""
    vocabulary = dict(engine._tokens("\n", begin=False, special=False))
    anchor = next(iter(vocabulary))
    text = engine._server.ask("/detokenize", {"tokens": [anchor, *tokens]})["content"]
    head = engine._server.ask("/detokenize", {"tokens": [anchor]})["content"]
    return text.removeprefix(head).encode()


# --- scores ---


def reference(engine: LlamaCppEngine, tokens: list[int], tail: list[int], *, cached: bool) -> float:
    """The sum of log-probabilities, each from a whole distribution over the vocabulary."""
    total = 0.0
    for i, token in enumerate(tail):
        body = {
            "prompt": tokens + tail[:i],
            "n_predict": 1,
            "temperature": 0,
            "n_probs": 100_000,
            "cache_prompt": cached,
        }
        (first,) = engine._server.ask("/completion", body)["completion_probabilities"]
        table = {each["id"]: each["logprob"] for each in first["top_logprobs"]}
        assert math.fsum(math.exp(value) for value in table.values()) == pytest.approx(1, abs=1e-4)
        total += table[token]
    return total


@pytest.mark.parametrize(("cached", "tolerance"), [(True, 1e-4), (False, 2e-3)])
def test_scores_are_exact(engine: LlamaCppEngine, cached: bool, tolerance: float):
    """From the first token in which the answers differ to the closing quote.

    Against a chain of requests on the cache; computed afresh each time the sums differ more, since the cache holds
    half-precision numbers that round either way.
    """
    prompt = engine.render(ASK)
    answers = [engine.continuation(prompt, answer) for answer in ANSWERS]
    shared = next(i for i in range(100) if len({answer[i] for answer in answers}) > 1)
    alike = next(i for i in range(1, 100) if len({answer[-i] for answer in answers}) > 1) - 1
    assert alike >= 1
    start = engine.tokenize(prompt) + answers[0][:shared]
    tails = [answer[shared : len(answer) - alike + 1] for answer in answers]
    first = engine.score(prompt, ANSWERS).log_probs
    expected = [reference(engine, start, tail, cached=cached) for tail in tails]
    assert len({round(value, 1) for value in expected}) == 3
    assert engine.score(prompt, ANSWERS).log_probs == pytest.approx(expected, abs=tolerance)
    assert first == pytest.approx(expected, abs=2e-3)


def test_complete_answers_share_one_unit_of_probability(engine: LlamaCppEngine):
    """All the single characters, closed by a quote: no answer is counted in another's share."""
    answers = [f'{letter}",' for letter in "abcdefghij"] + ['ab",', 'abc",']
    scores = engine.score(engine.render(ASK), answers).log_probs
    assert max(scores) < 0 and math.fsum(map(math.exp, scores)) < 1


def test_a_label_that_begins_another(engine: LlamaCppEngine):
    """The closing quote belongs to the score: "Match" does not take the probability of "Match cough"."""
    prompt = engine.render(ASK)
    answers = ['{"rating": "Match"}', '{"rating": "Match cough"}']
    both = engine.score(prompt, answers).log_probs
    assert both == pytest.approx(engine.score(prompt, answers[::-1]).log_probs[::-1], abs=1e-4)
    with pytest.raises(EngineError, match="beginning of another"):
        engine.score(prompt, ["Match", "Match cough"])


def test_one_answer_or_none(engine: LlamaCppEngine):
    assert engine.score("x", []) == Scores((), exact=True)
    assert engine.score("x", ["Match", "Match"]) == Scores((0.0, 0.0), exact=True)


@pytest.mark.slow
def test_threads_get_the_same_scores(tmp_path: Path):
    with serve(tmp_path, slots=2) as engine:
        prompts = [engine.render([{"role": "user", "content": f"record {i % 7}"}]) for i in range(21)]
        alone = [engine.score(prompt, ANSWERS).log_probs for prompt in prompts]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda prompt: engine.score(prompt, ANSWERS).log_probs, prompts))
        for one, other in zip(alone, together, strict=True):
            assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_an_adapter_is_applied(tmp_path: Path, strength: float):
    adapter = tmp_path / "adapter.gguf"
    _write_adapter(adapter, strength)
    with serve(tmp_path, layers=1) as bare:
        expected, prompt = bare.score(bare.render(ASK), ANSWERS).log_probs, bare.render(ASK)
    with serve(tmp_path, layers=1, adapter=adapter) as tuned:
        moved = np.abs(np.subtract(tuned.score(prompt, ANSWERS).log_probs, expected)).max()
        assert tuned.describe()["adapter"] is True
    assert moved < 1e-4 if strength == 0 else moved > 0.1


def _write_adapter(path: Path, strength: float) -> None:
    """Rank 2 on the down projection (width 64, 128 inside); `strength` 0 changes nothing."""
    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    writer.add_tensor("blk.0.ffn_down.weight.lora_a", rng.standard_normal((2, 128), dtype=np.float32))
    b = np.float32(strength) * rng.standard_normal((64, 2), dtype=np.float32)
    writer.add_tensor("blk.0.ffn_down.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- answers ---


def test_an_answer_is_counted_and_repeated(engine: LlamaCppEngine):
    prompt = engine.render(ASK)
    answer = engine.generate(prompt, max_tokens=12)
    assert answer.prompt_tokens == len(engine.tokenize(prompt)) and 0 < answer.answer_tokens <= 12
    assert answer.finished == (answer.answer_tokens < 12)
    assert engine.generate(prompt, max_tokens=12) == answer


def test_free_answers(engine: LlamaCppEngine):
    answer = engine.generate(engine.render(ASK), max_tokens=5)
    assert answer.text and (answer.answer_tokens == 5 or answer.finished)


# --- refusals ---


def test_a_long_prompt_is_refused(tmp_path: Path):
    with serve(tmp_path, context=128) as engine:
        assert engine.context == 128
        prompt = engine.render([{"role": "user", "content": "cough " * 200}])
        size = len(engine.tokenize(prompt))
        with pytest.raises(EngineError, match=rf"need {size + 1} tokens but the context holds 128"):
            engine.generate(prompt)
        with pytest.raises(EngineError, match=r"need \d+ tokens but the context holds 128"):
            engine.score(prompt, ANSWERS)


def test_every_slot_holds_the_whole_context(tmp_path: Path):
    with serve(tmp_path, context=128, slots=3) as engine, ThreadPoolExecutor(3) as pool:
        prompt = next(text for n in range(200, 0, -1) if len(engine.tokenize(text := "cough " * n)) <= 120)
        answers = list(pool.map(lambda _: engine.generate(prompt, max_tokens=6), range(3)))
        assert {answer.prompt_tokens for answer in answers} == {len(engine.tokenize(prompt))}


def test_closed(tmp_path: Path):
    engine = serve(tmp_path)
    prompt = engine.render(ASK)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.score(prompt, ANSWERS)


def test_what_cannot_be_loaded(tmp_path: Path):
    good = tiny.make(tmp_path / "good.gguf", layers=1)
    with pytest.raises(EngineError, match=r"absent\.gguf: no such file"):
        LlamaCppEngine(tmp_path / "absent.gguf")
    with pytest.raises(EngineError, match=r"absent\.gguf: no such file"):
        LlamaCppEngine(good, adapter=tmp_path / "absent.gguf")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(EngineError, match="is not a GGUF but a text file"):
        LlamaCppEngine(tmp_path / "text.gguf")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"llama", b"camel", "unknown model architecture: 'camel'"),
        (b"llama-bpe", b"camel-bpe", "unknown pre-tokenizer type: 'camel-bpe'"),
        (b"endfor", b"endxxx", "xxx"),
    ],
)
def test_llama_cpps_own_reason(tmp_path: Path, old: bytes, new: bytes, reason: str, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny.make(tmp_path / "model.gguf", layers=1).read_bytes().replace(old, new))
    with pytest.raises(EngineError, match=rf"other\.gguf: llama\.cpp cannot load it: .*{reason}") as caught:
        LlamaCppEngine(path)
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_describe(engine: LlamaCppEngine):
    assert engine.file_bytes == engine.model.stat().st_size
    assert json.loads(json.dumps(engine.describe())) == {
        "engine": "llama.cpp",
        "xllamacpp": engine.describe()["xllamacpp"],
        "context": 512,
        "slots": 1,
        "threads": 1,
        "adapter": False,
        "folds_system": False,
        "notes": [],
    }
