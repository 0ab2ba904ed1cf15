"""Decision answers at registration: compared where the server offers them, said where not.

No server with decisions (Ollama 0.35) was at hand: the tests' own answers as the documentation of its client says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.engine.decision import is_decision_model
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.locate import locate
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import RegistrationError
from expertune.files import sha256
from expertune.gguf.read import read_metadata
from expertune.progress import Progress
from expertune.ratings.scale import answer_opening
from expertune.record import Registration
from expertune.register.create import ServingConfig, differences
from expertune.register.register import Candidate, register
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE
from records import run_record
from register.test_register import ODD, ROWS, SCALE, SYSTEM

DECISION = {
    "llama.decision.type": "nimble",
    "tokenizer.chat_template.systemone": "{{ bos_token }}{{ state }}\n{% for each in options %}{{ each.label }}: "
    "{{ each.key }}\n{% endfor %}Answer:",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    base = tiny.make(folder / "base.gguf", layers=1, chat_template=ODD)
    with LlamaCppEngine(base, threads=1) as engine:
        openings = [answer_opening(label) for label in SCALE.labels]
        answers = engine.spelled(engine.render(ROWS[0].messages), openings)[1]
    favour = sorted({token for answer in answers for token, _ in answer})
    tuned = tiny.make(
        folder / "fine_tuned_model.gguf", layers=1, chat_template=ODD, favour=favour, seed=3, extra=DECISION
    )
    return {"base": base, "tuned": tuned}


@pytest.fixture
def contract(files: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ContractServer]:
    with ContractServer(tmp_path / "models", version=request.param) as server:
        server.add("base", files["base"], template=TEMPLATE)
        yield server


def registered(contract: ContractServer, files: dict[str, Path]) -> Registration:
    record = run_record(provenance={"hashes": {"fine_tuned_model.gguf": sha256(files["tuned"])}})
    with OllamaServer(contract.host, patience=0.2) as server:
        base = locate("base", server)
        made = Candidate(files["tuned"], base, "base", True, SYSTEM, ROWS, SCALE, context=512, threads=1, record=record)
        return register(server, "mine", made, Progress(quiet=True), force=True)


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["0.35.0", "0.41.2"], indirect=True)
def test_decisions_are_those_of_the_file(contract: ContractServer, files: dict[str, Path]) -> None:
    line = registered(contract, files).decisions
    assert line == (
        "100% get the file's label as a decision (/v1/systemone; probabilities differ by 0.0000 on average)."
    )
    asked = [each.json for each in contract.requests if each.path == "/v1/systemone"]
    assert [each["state"] for each in asked] == [row.record for row in ROWS]
    assert {tuple(each["questions"]["rating"]["criteria"]) for each in asked} == {SCALE.labels}
    assert all(each["model"] == "mine:unproven" and each["keep_alive"] == "5m" for each in asked)


@pytest.mark.parametrize("contract", ["0.33.0"], indirect=True)
def test_a_server_before_decisions_registers_and_says_so(contract: ContractServer, files: dict[str, Path]) -> None:
    made = registered(contract, files)
    assert made.registered
    assert made.decisions == "Ollama 0.33.0 offers no decisions (/v1/systemone needs 0.35 or later): not compared."
    assert "/v1/systemone" not in {each.path for each in contract.requests}


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["0.35.0"], indirect=True)
@pytest.mark.parametrize("answer", [None, {}, {"answers": {"rating": {"probabilities": {"Match": 1}}}}, []])
def test_a_server_that_does_not_decide_registers_and_says_so(
    contract: ContractServer, files: dict[str, Path], answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        contract.fail("/v1/systemone", "cannot-load", times=5)
    else:
        monkeypatch.setattr(contract.generator, "decide", lambda body: answer)
    made = registered(contract, files)
    assert made.registered and made.decisions is not None
    assert "gave no decision (capabilities: completion; " in made.decisions and "not compared" in made.decisions


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["0.35.0"], indirect=True)
def test_other_decisions_than_the_files_are_refused(
    contract: ContractServer, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = contract.generator.decide

    def turned(body: dict[str, Any]) -> dict[str, Any]:
        found = decide(body)
        shares = found["answers"]["rating"]["probabilities"]
        shares |= dict(zip(shares, reversed(list(shares.values())), strict=True))
        return found

    monkeypatch.setattr(contract.generator, "decide", turned)
    with pytest.raises(RegistrationError, match=r"decisions \(/v1/systemone\): .* nothing was registered"):
        registered(contract, files)
    assert {model.name for model in contract.store.models()} == {"base:latest"}


def test_the_key_makes_a_decision_model(files: dict[str, Path]) -> None:
    assert is_decision_model(read_metadata(files["tuned"])) and not is_decision_model(read_metadata(files["base"]))


@pytest.mark.parametrize(
    ("before", "now", "info", "wrong"),
    [
        (["completion"], ["completion", "decision"], {"llama.decision.type": "nimble"}, []),
        (["completion"], ["completion", "decision"], {}, ["capabilities"]),
        (["completion", "tools"], ["completion", "decision"], {"llama.decision.type": "nimble"}, ["capabilities"]),
        (["completion"], ["completion"], {"llama.context_length": 8}, ["llama.context_length"]),
    ],
)
@pytest.mark.parametrize("contract", ["0.35.0"], indirect=True)
def test_a_decision_model_may_be_able_to_do_more_than_its_base(
    contract: ContractServer, before: list[str], now: list[str], info: dict[str, Any], wrong: list[str]
) -> None:
    with OllamaServer(contract.host) as server:
        located, shown = locate("base", server), server.show("base")
    serving = ServingConfig(located, {**shown, "capabilities": before}, None)
    changed = {**shown, "capabilities": now, "model_info": {**shown["model_info"], **info}}
    assert differences(located, changed, serving) == wrong  # pyright: ignore[reportArgumentType]
