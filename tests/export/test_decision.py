"""The keys of a decision model: the server's prompt is the training's, and /v1/systemone gives our probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import decision_models
import talkers
import tiny
from expertune.engine.decision import is_decision_model
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.export.decision import PromptFrame, decision_keys, frame_of, is_decision_key
from expertune.export.merged import MergeTarget, write_merged
from expertune.export.quant_types import WeightUpdate
from expertune.gguf.read import GGUFFile, read_metadata
from expertune.gguf.write import write_model
from expertune.predict.score import rate_examples
from expertune.ratings.codes import CodeBranch, LabelScoring
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import answer_text, make_scale
from expertune.ratings.schema import Example
from expertune.stats.calibration import fit_temperature
from expertune.train.code_branch import choose_branch, is_decision
from llama import Served

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
TEXTS = (
    "cough and fever",
    '38.9 °C · 咳嗽 {{ state }} {% if x %} {# no #} "quoted" \\n',
    "line one\nline two\n\n  three",
)
TEMPLATES = sorted(path.stem for path in (talkers.DATA / "templates").glob("*.jinja"))
EDGES = "  blanks around  "
# the record begins after a brace, and a line ends as in DOS
BRACES = tiny.CHAT_TEMPLATE.replace("message['content']", "'{' + message['content'] + '}\\r\\n{#'")
TEMPERATURE = 1.75


def examples(branch: CodeBranch | None, texts: tuple[str, ...] = TEXTS) -> list[Example]:
    found = []
    for text in texts:
        messages = chat_messages(text, SCALE, "infections {{ x }} {% y %}", branch)
        found.append(Example(text, "dev", messages, answer_text("Match", "why"), "Match", 1))
    return found


def framed(engine: LlamaCppEngine, texts: tuple[str, ...] = TEXTS) -> tuple[CodeBranch, PromptFrame | None]:
    branch = choose_branch(engine, engine.render(examples(None)[0].messages), len(SCALE.labels))
    assert branch is not None
    return branch, frame_of(engine, branch, examples(branch, texts))


def decide(served: Served, text: str) -> list[float]:
    question = {"type": "choice", "instructions": "rate", "criteria": dict.fromkeys(SCALE.labels, "")}
    answer = served.post("/v1/systemone", {"state": text, "questions": {"rating": question}})
    found = json.dumps(answer)
    assert "probabilities" in found, found
    shares = answer["answers"]["rating"]["probabilities"]
    return [shares[label] for label in SCALE.labels]


def tempered(shares: tuple[float, ...]) -> np.ndarray:
    scores_K = np.log(shares) / TEMPERATURE
    return np.exp(scores_K) / np.exp(scores_K).sum()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["plain", "braces", "gemma3", "llama-3.2", "qwen3", "gpt-oss"])
def test_the_server_decides_as_the_codes_are_scored(tmp_path: Path, model: str) -> None:
    base = tmp_path / "base.gguf"
    if model in ("plain", "braces"):
        tiny.make(base, chat_template=BRACES if model == "braces" else tiny.CHAT_TEMPLATE)
    else:
        talkers.make(base, talkers.template(model))
    with LlamaCppEngine(base, context=768, threads=1) as engine:
        branch, frame = framed(engine)
        assert frame is not None
        shown = examples(branch)
        assert is_decision(engine, engine.render(shown[0].messages), branch)
        expected = rate_examples(engine, shown, SCALE, scoring=LabelScoring("code", branch))
    with GGUFFile(base) as file:
        keys = decision_keys("llama", frame, TEMPERATURE)
        write_model(tmp_path / "decision.gguf", file, replaced={}, metadata=keys)
    served = Served(tmp_path / "decision.gguf", context=768)
    for each in expected:
        assert np.abs(np.array(decide(served, each.id)) - tempered(each.probabilities)).max() < 1e-3
    assert np.std([each.probabilities for each in expected]) > 0.01
    if model != "gpt-oss":  # whose words at random are not in its channels
        chat = {"messages": [{"role": "user", "content": "cough"}], "max_tokens": 2}
        assert served.post("/v1/chat/completions", chat)["choices"]


@pytest.mark.slow
def test_codes_that_the_server_would_read_as_other_tokens_are_no_decision(tmp_path: Path) -> None:
    """A SentencePiece text begins with a blank, and this vocabulary has no token of a blank and a letter."""
    with LlamaCppEngine(tiny.make(tmp_path / "base.gguf", vocab="spm"), context=768, threads=1) as engine:
        branch, frame = framed(engine)
        assert frame is not None
        assert not is_decision(engine, engine.render(examples(branch)[0].messages), branch)


def test_the_keys_change_nothing_else(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base.gguf", qtype="Q8_0")
    with GGUFFile(base) as file:
        keys = decision_keys("llama", PromptFrame("<s>", "Code:"), 1.0, "a remark")
        write_model(tmp_path / "with.gguf", file, replaced={}, metadata=keys)
        write_model(tmp_path / "without.gguf", file, replaced={}, metadata={})
    with GGUFFile(tmp_path / "with.gguf") as with_keys, GGUFFile(tmp_path / "without.gguf") as without:
        assert with_keys.fields.keys() - without.fields.keys() == keys.keys()
        assert all(with_keys.fields[key].raw == field.raw for key, field in without.fields.items())
        assert with_keys.tensors.keys() == without.tensors.keys()
        for name in without.tensors:
            assert with_keys.blocks(name).tobytes() == without.blocks(name).tobytes()


def test_a_tuned_decision_model_does_not_keep_the_keys_of_its_base(tmp_path: Path) -> None:
    with GGUFFile(decision_models.make(tmp_path / "base.gguf", temperatures={"choice.3_5": 2.0})) as base:
        assert is_decision_model(read_metadata(base.path))
        keys = decision_keys("llama", PromptFrame("<s>", "Code:"), 1.0)
        for name, metadata, left in (("none", {}, {}), ("own", keys, keys)):
            target = MergeTarget(tmp_path / f"{name}.gguf", base, WeightUpdate({}, 1.0), metadata, 1)
            write_merged(target, ())
            found = read_metadata(target.path)
            assert {key: found[key] for key in found if is_decision_key(key)} == left
            with GGUFFile(target.path) as tuned:
                assert set(base.fields) - set(tuned.fields) <= {*keys, "llama.decision.temperature.choice.3_5"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_frame_is_the_prompt_of_every_template(tmp_path: Path, name: str) -> None:
    with LlamaCppEngine(talkers.make(tmp_path / "m.gguf", talkers.template(name)), context=768, threads=1) as engine:
        branch, frame = framed(engine, (*TEXTS, EDGES))
        assert frame is not None
        for each in examples(branch, (*TEXTS, EDGES)):
            prompt = engine.render(each.messages) + branch.lead
            assert frame.of(each.id).endswith(prompt)
            written = [token for token, _ in engine._tokens(frame.of(each.id), begin=False, special=True)]
            assert written == engine.tokenize(prompt)
        assert frame.trims == (EDGES not in frame.of(EDGES))


@pytest.mark.slow
def test_a_template_that_rewrites_the_record_has_no_frame(tmp_path: Path) -> None:
    one_line = tiny.CHAT_TEMPLATE.replace("message['content']", "message['content'] | replace('\\n', ' ')")
    base = tiny.make(tmp_path / "base.gguf", chat_template=one_line)
    with LlamaCppEngine(base, context=768, threads=1) as engine:
        assert framed(engine)[1] is None


def test_a_temperature_is_fitted_where_it_helps() -> None:
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 3, 300)
    shares_NK = np.full((300, 3), 0.005)
    shares_NK[np.arange(300), np.where(draw.random(300) < 0.7, truth, (truth + 1) % 3)] = 0.99  # far too sure
    assert fit_temperature(shares_NK.tolist(), truth.tolist()) > 2
    assert fit_temperature(shares_NK[:5].tolist(), truth[:5].tolist()) == 1.0
    honest_NK = np.full((300, 3), 0.15)
    honest_NK[np.arange(300), np.where(draw.random(300) < 0.7, truth, (truth + 1) % 3)] = 0.7
    assert fit_temperature(honest_NK.tolist(), truth.tolist()) == pytest.approx(1.0, abs=0.2)
