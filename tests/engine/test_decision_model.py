"""A decision model gives the probabilities that its logits make, reads what records share once, and still chats."""

from __future__ import annotations

import http.client
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch

import decision_models
import tiny
from expertune.config import Config
from expertune.engine.decision import Question, is_decision_model, make_question, read_decision
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError
from expertune.gguf.read import GGUFFile, read_metadata
from expertune.model.attention import Segment
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, load
from expertune.predict.decision import decision_pass
from expertune.ratings.scale import make_scale
from expertune.ratings.schema import Example

MEANINGS = {"Match": "the record matches the topic", "Does Not Match": "", "Unknown": "too little to decide"}
QUESTION = make_question(MEANINGS, "respiratory infections")
RECORDS = ("cough and fever", "injury of the ankle after a fall", 'a "quoted" {{ state }} {% raw %}\nline')


def by_our_decoder(path: Path, engine: LlamaCppEngine, record: str, question: Question, temperature: float) -> Any:
    """Softmax of the codes' logits after the template (rendered as transformers does), by our decoder in float32."""
    codes = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    options = [
        {"label": codes[at], "key": label, "description": meaning or None}
        for at, (label, meaning) in enumerate(question.options.items())
    ]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(decision_models.TEMPLATE)
    prompt = template.render(instructions=question.instructions, options=options, state=record)
    tokens = [token for token, _ in engine._tokens(prompt, begin=False, special=True)]
    labels = [engine._tokens(code, begin=False, special=False)[0][0] for code in codes[: len(options)]]
    with GGUFFile(path) as file, torch.no_grad():
        tunable = load(file, Config(), Placement(torch.device("cpu"), torch.float32, False, 1))
        pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
        hidden_1D = tunable.decoder.hidden(pack, torch.tensor([len(tokens) - 1]))
        logits_V = tunable.decoder.logits(hidden_1D)[0]
    return torch.softmax(logits_V[labels] / temperature, -1).numpy(), len(tokens)


@pytest.mark.parametrize(("temperatures", "expected"), [({}, 1.0), ({"choice": 2.0, "choice.3_5": 3.0}, 3.0)])
@pytest.mark.parametrize("labels", [tuple(MEANINGS), tuple(reversed(MEANINGS))])
def test_the_probabilities_are_those_of_the_logits(
    temperatures: dict[str, float], expected: float, labels: Sequence[str], tmp_path: Path
) -> None:
    """Also with the labels in another order: the codes go by the order of the options."""
    path = decision_models.make(tmp_path / "m.gguf", temperatures=temperatures)
    question = Question(QUESTION.instructions, {label: MEANINGS[label] for label in labels})
    with LlamaCppEngine(path, threads=1) as engine:
        for record in RECORDS:
            found = engine.decide(record, question)
            ours, tokens = by_our_decoder(path, engine, record, question, expected)
            np.testing.assert_allclose(found.probabilities, ours, atol=1e-3)
            assert found.prompt_tokens == tokens
            assert max(ours) - min(ours) > 0.02  # the model prefers a label: equal shares would prove nothing


def test_two_labels_have_the_general_temperature(tmp_path: Path) -> None:
    path = decision_models.make(tmp_path / "m.gguf", temperatures={"choice": 2.0, "choice.3_5": 3.0})
    question = make_question({"yes": "", "no": ""}, "")
    with LlamaCppEngine(path, threads=1) as engine:
        ours, _ = by_our_decoder(path, engine, "cough", question, 2.0)
        np.testing.assert_allclose(engine.decide("cough", question).probabilities, ours, atol=1e-3)


def test_what_records_share_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens evaluated, by the server's own count: each record costs its own tokens and the end of the template."""
    plain = importlib.import_module("xllamacpp").CommonParams

    def counting() -> Any:
        params = plain()
        params.endpoint_metrics = True
        return params

    monkeypatch.setattr("xllamacpp.CommonParams", counting)
    path = decision_models.make(tmp_path / "m.gguf")
    question = make_question(dict.fromkeys(MEANINGS, "a long meaning " * 8), "")
    records = [f"{word} and fever" for word in ("cough", "ankle", "pain", "injury")]
    with LlamaCppEngine(path, threads=1) as engine:
        whole = sum(engine.decide(record, question).prompt_tokens for record in records)
        longest = max(engine.count_tokens(record + "\nAnswer:") for record in records)
        shared = engine.decide("", question).prompt_tokens
        engine.decide(records[0], question)
        before = evaluated(engine)
        for record in records[1:]:
            engine.decide(record, question)
        assert evaluated(engine) - before <= (longest + 1) * len(records[1:])
        assert whole > 3 * shared  # so much would it have been


def evaluated(engine: LlamaCppEngine) -> int:
    address = engine._server.address
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {engine._server.key}"})
    (count,) = re.findall(r"^llamacpp:prompt_tokens_total (\d+)$", connection.getresponse().read().decode(), re.M)
    connection.close()
    return int(count)


def test_the_same_file_still_chats(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "cough and fever"}]
    answers = []
    for path in (decision_models.make(tmp_path / "decision.gguf"), tiny.make(tmp_path / "plain.gguf")):
        with LlamaCppEngine(path, threads=1) as engine:
            if is_decision_model(read_metadata(path)):
                engine.decide("cough", QUESTION)
            answers.append(engine.generate(engine.render(messages), max_tokens=12).text)
    assert answers[0] == answers[1] != ""


def test_errors_are_one_line(tmp_path: Path) -> None:
    path = decision_models.make(tmp_path / "m.gguf")
    many = make_question({f"level {at}": "" for at in range(27)}, "")
    with LlamaCppEngine(path, threads=1) as engine:
        with pytest.raises(EngineError, match=r"m.gguf: this decision model takes at most 26 options, .* 27 labels"):
            engine.decide("cough", many)
        scale = make_scale({label: at for at, label in enumerate(many.options)})
        record = Example("7", "test", ({"role": "user", "content": "cough"},), "", "", 0)
        with pytest.raises(EngineError, match=r"^row 7: m.gguf: this decision model takes at most 26 options"):
            decision_pass(engine, many, [record], scale)
        with pytest.raises(EngineError, match=r"^llama.cpp refused /v1/systemone: .*context size") as caught:
            engine.decide("cough " * 2000, QUESTION)
        assert "cough" not in str(caught.value) and "\n" not in str(caught.value)
    assert not is_decision_model(read_metadata(tiny.make(tmp_path / "plain.gguf")))
    with (
        LlamaCppEngine(tmp_path / "plain.gguf", threads=1) as engine,
        pytest.raises(EngineError, match="not a decision"),
    ):
        engine.decide("cough", QUESTION)


@pytest.mark.parametrize("shares", [{"Match": 1.0}, {"Match": 0.9, "Does Not Match": 0.9, "Unknown": 0.0}])
def test_an_answer_without_every_label_is_refused(shares: dict[str, float]) -> None:
    answer = {"answers": {"rating": {"probabilities": shares}}, "usage": {"input_tokens": 3}}
    with pytest.raises(EngineError, match=r"in an unknown form|do not sum to 1"):
        read_decision(answer, QUESTION)
