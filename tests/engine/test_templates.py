"""Every family's chat template in llama.cpp: the prompt, that it leads straight to the rating, and that the tokens
of the training (prompt, answer, end of turn) are those that the template makes of a finished talk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import families
import talkers
import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.next_tokens import NextTokens
from expertune.ratings.scale import DEFAULT_MAPPING, make_scale
from expertune.ratings.schema import Example
from expertune.train.encode import encode
from llama import Served

VECTORS = json.loads((talkers.DATA / "chat_template_vectors.json").read_text(encoding="utf-8"))
TALK = VECTORS["conversation"]
CASES = {case["name"]: case for case in VECTORS["cases"]}
SYSTEM = TALK[0]["content"]
TARGET = '{"rating": "Match", "rationale": "cough"}'
THOUGHT = re.compile(r"<think></think>|<\|channel>thought<channel\|>")  # an empty one, without its blanks

# vectors of llama.cpp's built-in formats, for which the file has no Jinja to render
WITHOUT_TEMPLATE = {
    "ChatGLM4",
    "Infinigence/Megrez-3B-Instruct",
    "inclusionAI/Ling-lite",
    "ByteDance-Seed/Seed-OSS-36B-Instruct",
}
GIGACHAT = "ai-sage/GigaChat-20B-A3B-instruct"  # asks for `additional_special_tokens`, which llama.cpp does not give
YANDEX = "yandex/YandexGPT-5-Lite-8B-instruct"
STARTS_EACH_TURN_WITH_BOS = "mlabonne/AlphaMonarch-7B"
MISTRAL_V3 = [name for name in CASES if "'v3" in name]  # the system text stands in the last user's turn
# the end of a turn where it is not </s>, and how a file says so: as its EOS, as its end of turn, or by the name alone
EOS = {
    "openchat/openchat-3.5-0106": "<|end_of_turn|>",
    "deepseek-ai/deepseek-coder-33b-instruct": "<|EOT|>",
    "CohereForAI/c4ai-command-r-plus": "<|END_OF_TURN_TOKEN|>",
}
END_OF_TURN = {"ChatGLM3": "<|user|>", "GLMEdge": "<|user|>"}
BY_NAME = {
    "teknium/OpenHermes-2.5-Mistral-7B": "<|im_end|>",
    "google/gemma-7b-it": "<end_of_turn>",
    "Llama-3": "<|eot_id|>",
    **dict.fromkeys(["Phi-3-mini", "Phi-3-small", "Phi-3-medium", "Phi-3-vision"], "<|end|>"),
    "phi-4": "<|im_end|>",
    **dict.fromkeys([name for name in CASES if "granite" in name], "<|end_of_text|>"),
}
# These write blanks around an answer that their prompts do not end with; the model says none.
WITH_BLANKS = {
    "TheBloke/FusionNet_34Bx2_MoE-AWQ",
    "bofenghuang/vigogne-2-70b-chat",
    "openchat/openchat-3.5-0106",
    "deepseek-ai/deepseek-coder-33b-instruct",
    "eachadea/vicuna-13b-1.1",
    "Orca-Vicuna",
    "ChatGLM3",
    "GLMEdge",
    "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)",
    "mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)",
}


@dataclass(frozen=True)
class Family:
    """`opening` is what the prompt ends with. `bos` is None for files that want none. `like_a_talk`: a finished talk
    has the very tokens of the training; others drop the empty thought, or end the turns inside a talk otherwise."""

    opening: str
    end: str
    eos: str
    bos: str | None
    ends: tuple[str, ...] = ()
    like_a_talk: bool = True


CHATML = "<|im_start|>assistant\n"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
FAMILIES = {
    "qwen2.5": Family(CHATML, "<|im_end|>", "<|im_end|>", None),
    "qwen3": Family(CHATML + EMPTY_THOUGHT, "<|im_end|>", "<|im_end|>", None, like_a_talk=False),
    "qwen3-thinking": Family(CHATML + EMPTY_THOUGHT, "<|im_end|>", "<|im_end|>", None, like_a_talk=False),
    "qwen35": Family(CHATML + EMPTY_THOUGHT, "<|im_end|>", "<|im_end|>", None, like_a_talk=False),
    "smollm3": Family(CHATML + "<think>\n\n</think>\n", "<|im_end|>", "<|im_end|>", None),
    "lfm2": Family(CHATML, "<|im_end|>", "<|im_end|>", "<|startoftext|>"),
    "deepseek-r1-distill": Family(
        "<｜Assistant｜>" + EMPTY_THOUGHT,
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        like_a_talk=False,
    ),
    "gpt-oss": Family(
        "<|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        "<|return|>",
        None,
        ("<|return|>", "<|call|>"),
        like_a_talk=False,
    ),
    "gemma3": Family("<start_of_turn>model\n", "<end_of_turn>", "<eos>", "<bos>"),
    "gemma4": Family("<|turn>model\n<|channel>thought\n<channel|>", "<turn|>", "<eos>", "<bos>", like_a_talk=False),
    "glm4": Family("<|assistant|>\n", "<|user|>", "<|endoftext|>", None, ("<|user|>",)),
    "glm-4.6": Family(
        "<|assistant|>\n<think></think>", "<|user|>", "<|endoftext|>", None, ("<|user|>",), like_a_talk=False
    ),
    "granite-3.3": Family("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>", "<|end_of_text|>", None),
    "llama-3.2": Family(
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", "<|eot_id|>", "<|begin_of_text|>"
    ),
    "olmo2": Family("<|assistant|>\n", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "phi-4-mini": Family("<|assistant|>", "<|end|>", "<|endoftext|>", None),
    "stablelm": Family("<|assistant|>\n", "<|endoftext|>", "<|endoftext|>", None),
    "starcoder2": Family("### Response\n", "<|endoftext|>", "<|endoftext|>", None),
    "command-r7b": Family(
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        like_a_talk=False,
    ),
}


def id_of(engine: LlamaCppEngine, text: str) -> int:
    (token,) = engine._server.ask("/tokenize", {"content": text, "parse_special": True})["tokens"]
    return token


def trained(engine: LlamaCppEngine) -> list[int]:
    """The tokens of a training row."""
    row = Example("r", "train", tuple(TALK[:2]), TARGET, "Match", 1)
    scale = make_scale(DEFAULT_MAPPING)
    (encoded,) = encode(engine, [row], scale)
    assert encoded.answer[-1:] == tuple(engine.turn_end()) and len(encoded.weights) == len(encoded.answer)
    return [*encoded.prompt, *encoded.answer]


def finished(engine: LlamaCppEngine) -> str:
    """The same talk with its answer, and a user who goes on: what the template itself makes of it."""
    return engine.render([*TALK[:2], {"role": "assistant", "content": TARGET}, TALK[3]])


def squeezed(text: str) -> str:
    return THOUGHT.sub("", re.sub(r"\s", "", text))


# --- llama.cpp's own vectors ---


@pytest.fixture(scope="module", params=[name for name in CASES if name not in WITHOUT_TEMPLATE])
def vector(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], LlamaCppEngine]]:
    case = CASES[request.param]
    path = tmp_path_factory.mktemp("vector") / "model.gguf"
    ends = (END_OF_TURN[request.param],) if request.param in END_OF_TURN else ()
    talkers.make(path, case["template_str"], eos=EOS.get(request.param, "</s>"), ends=ends)
    with LlamaCppEngine(path, threads=1) as engine:
        yield case, engine


def test_the_vectors_that_have_no_template_are_known():
    assert {name for name, case in CASES.items() if not case.get("template_str")} == WITHOUT_TEMPLATE
    assert len(CASES) == 34


def test_renders_as_llama_cpps_vectors(vector: tuple[dict[str, Any], LlamaCppEngine]):
    """But for the BOS in front, which llama.cpp takes off where the tokenizer writes it."""
    case, engine = vector
    made = engine.render(TALK)
    expected = (case.get("expected_output_jinja") or case["expected_output"]).removeprefix("<s>")
    if case["name"] == GIGACHAT:
        expected = re.sub(r"<\|\w+_sep\|>|\[\]", "", expected)
    elif "(tool call)" in case["name"]:  # its talk goes on with calls of tools, which we have none of
        made = made.removesuffix("<|start_of_role|>assistant<|end_of_role|>")
        expected = expected[: len(made)]
    assert made == expected


def test_a_vectors_training_tokens(vector: tuple[dict[str, Any], LlamaCppEngine]):
    case, engine = vector
    name, prompt, talk = case["name"], engine.render(TALK[:2]), finished(engine)
    tokens, (end,) = trained(engine), engine.turn_end()
    assert SYSTEM in prompt
    assert end == id_of(engine, EOS.get(name) or END_OF_TURN.get(name) or BY_NAME.get(name) or "</s>")
    assert engine._ends_generation(end)
    bos = id_of(engine, "<s>")
    assert tokens[0] == bos and tokens.count(bos) == (3 if name == STARTS_EACH_TURN_WITH_BOS else 1)
    if name in MISTRAL_V3:
        assert SYSTEM not in talk[: talk.index(TARGET)] and talk.split(TARGET)[1].startswith("</s>")
    elif name in (GIGACHAT, YANDEX):  # no mark ends the answer in these renders: EOS does
        assert squeezed(talk).startswith(squeezed(prompt.removesuffix("[SEP]") + TARGET))
    elif name in WITH_BLANKS:
        assert squeezed(talk).startswith(squeezed(prompt + TARGET))
        assert engine._tokens(talk.split(TARGET)[1].lstrip(), begin=False, special=True)[0][0] == end
    else:
        assert engine.tokenize(talk)[: len(tokens)] == tokens


# --- families ---


@pytest.fixture(scope="module", params=FAMILIES)
def talker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Family, LlamaCppEngine]]:
    family = FAMILIES[request.param]
    path = tmp_path_factory.mktemp("family") / "model.gguf"
    talkers.make(path, talkers.template(request.param), eos=family.eos, bos=family.bos, ends=family.ends)
    with LlamaCppEngine(path, threads=1) as engine:
        yield request.param, family, engine


def test_every_template_is_tested():
    assert {path.stem for path in (talkers.DATA / "templates").iterdir()} == FAMILIES.keys()


def test_the_prompt_leads_straight_to_the_rating(talker: tuple[str, Family, LlamaCppEngine]):
    _, family, engine = talker
    prompt = engine.render(TALK[:2])
    assert prompt.endswith(family.opening) and prompt.count(SYSTEM) == 1
    assert engine.render(TALK).endswith(family.opening)  # also behind examples


def test_a_familys_training_tokens(talker: tuple[str, Family, LlamaCppEngine]):
    name, family, engine = talker
    prompt, talk, tokens, (end,) = engine.render(TALK[:2]), finished(engine), trained(engine), engine.turn_end()
    assert end == id_of(engine, family.end) and engine._ends_generation(end)
    if family.bos is not None:
        bos = id_of(engine, family.bos)
        assert tokens[0] == bos and tokens[:-1].count(bos) == 1
    if family.like_a_talk:
        assert engine.tokenize(talk)[: len(tokens)] == tokens
        return
    assert squeezed(talk).startswith(squeezed(prompt + TARGET))
    inside = {"gpt-oss": "<|end|>", "command-r7b": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"}.get(name, family.end)
    assert talk.split(TARGET)[1].startswith(inside)


def test_what_is_unusual_is_told(talker: tuple[str, Family, LlamaCppEngine]):
    name, _, engine = talker
    told = " ".join(engine.notes)
    assert ("opens a thought" in told) == (name in ("deepseek-r1-distill", "qwen3-thinking"))
    assert ("before an answer" in told) == (name in ("gpt-oss", "command-r7b"))
    assert ("today's date" in told) == (name in ("gpt-oss", "llama-3.2", "smollm3"))
    assert len(engine.notes) == told.count("opens a thought") + told.count("before an") + told.count("today's date")


def test_the_shortest_thought_is_asked_of_harmony_and_of_no_other(tmp_path: Path):
    """A template that knows other levels raises at this one; nothing but harmony is told a level."""
    with LlamaCppEngine(talkers.make(tmp_path / "oss.gguf", talkers.template("gpt-oss")), threads=1) as engine:
        assert "Reasoning: low" in engine.render(TALK[:2])
    picky = (
        "{% if reasoning_effort is defined and reasoning_effort not in ['none', 'high'] %}"
        "{{ raise_exception('reasoning_effort must be none or high') }}{% endif %}" + tiny.CHAT_TEMPLATE
    )
    with LlamaCppEngine(talkers.make(tmp_path / "picky.gguf", picky), threads=1) as engine:
        assert engine.render(TALK[:2]).endswith(CHATML)


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<think>", "<think></think>"),
        ("<|START_THINKING|>", "<|START_THINKING|><|END_THINKING|>"),
        ("<seed:think>", "<seed:think></seed:think>"),
    ],
)
def test_a_thought_that_cannot_be_switched_off_is_closed(tmp_path: Path, opened: str, closed: str):
    template = tiny.CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n" + opened + "{{ '' }}{% endif %}")
    with LlamaCppEngine(talkers.make(tmp_path / "model.gguf", template), threads=1) as engine:
        assert engine.render(TALK[:2]).endswith(CHATML + closed)
        assert engine.render([{"role": "user", "content": f"he says {opened}"}]).count(closed) == 1


# --- which rotation a model is served with ---


def phi3(path: Path) -> Path:
    """An original context of 512 tokens, and long factors that are other than the short ones."""
    families.make(path, families.FAMILIES["phi3"], context=4096)
    reader = gguf.GGUFReader(path, "r+")
    (long,) = (tensor for tensor in reader.tensors if tensor.name == "rope_factors_long.weight")
    long.data[:] *= 5
    reader.data.flush()
    return path


def test_long_factors_are_never_served(tmp_path: Path):
    """Above its original context llama.cpp takes the long factors for a short prompt too; no training has seen them."""
    path, tokens, size = phi3(tmp_path / "model.gguf"), list(range(40, 80)), len(tiny.bpe_vocabulary()[0])
    short_V, long_V = (Served(path, context=context).log_probabilities(tokens, size) for context in (512, 1024))
    assert np.abs(short_V - long_V).max() > 0.1
    for context, slots in ((0, 1), (2048, 3)):
        with LlamaCppEngine(path, context=context, slots=slots, threads=1) as engine:
            assert engine.context == 512
            following = NextTokens(engine._complete, tokens, 0, stand_in=90, unlisted=set())
            found = following.forced((), [90])
            # the engine's cache is half precise
            assert [found[token] for token in found] == pytest.approx([short_V[token] for token in found], abs=1e-2)
    with LlamaCppEngine(path, context=300, threads=1) as engine:
        assert engine.context == 300


def test_a_model_without_long_factors_keeps_its_context(tmp_path: Path):
    settings = {"llama.rope.scaling.original_context_length": 512}
    with LlamaCppEngine(tiny.make(tmp_path / "plain.gguf", context=4096, extra=settings), threads=1) as engine:
        assert engine.context == 4096
