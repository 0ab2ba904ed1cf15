"""Registration of a model whose labels Ollama cannot score: the file is not compared with itself, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from expertune.cli.output import print_registration
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.locate import locate
from expertune.engine.ollama.server import OllamaServer
from expertune.files import sha256
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_model
from expertune.progress import Progress
from expertune.ratings.examples import chat_messages, system_prompt
from expertune.ratings.scale import answer_opening, answer_text, make_scale
from expertune.ratings.schema import Example
from expertune.register.register import Candidate, register
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE
from records import run_record

TOPIC = "respiratory infections"
SCALE = make_scale({"符合": 1, "不符合": 0})
VISITS = ["34F cough and fever", "80M fell, ankle pain", "21M sore throat", "9F rash"]


def test_labels_that_ollama_cannot_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(
        Example(str(i), "test", chat_messages(text, SCALE, TOPIC), answer_text(label, None), label, value)
        for i, (text, (label, value)) in enumerate(
            zip(VISITS, list(zip(SCALE.labels, SCALE.values, strict=True)) * 2, strict=True)
        )
    )
    base = tiny.make(tmp_path / "base.gguf", layers=1, context=1024)
    with LlamaCppEngine(base, threads=1) as engine:
        openings = [answer_opening(label) for label in SCALE.labels]
        answers = engine.spelled(engine.render(rows[0].messages), openings)[1]
    liked = sorted({token for answer in answers for token, _ in answer})
    tuned = tmp_path / "fine_tuned_model.gguf"
    with GGUFFile(tiny.make(tmp_path / "liking.gguf", layers=1, context=1024, favour=liked)) as file:
        write_model(tuned, file, replaced={}, metadata={})
    record = run_record(provenance={"hashes": {tuned.name: sha256(tuned)}})
    with ContractServer(tmp_path / "models") as contract, OllamaServer(contract.url) as server:
        contract.add("base", base, template=TEMPLATE)
        candidate = Candidate(
            tuned,
            locate("base", server),
            "base",
            True,
            system_prompt(SCALE, TOPIC),
            rows,
            SCALE,
            context=1024,
            threads=1,
            record=record,
        )
        with Progress(quiet=True) as progress:
            made = register(server, "my-rater", candidate, progress)
        assert "my-rater:latest" in {each.name for each in server.models()}
    assert made.bytes == "same file"
    assert (made.agreement.rows, made.agreement.exact) == (len(rows), 0)
    assert made.agreement.labels is None and made.agreement.probability_gap is None
    assert 0 <= made.agreement.chat_labels <= 1
    print_registration(made)
    assert "Ollama gives no probabilities for labels in this script" in capsys.readouterr().out
