"""Registration over the contract server: what passes is served byte for byte, what does not leaves no trace."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.locate import locate
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError, ExpertuneError, OutputError, RegistrationError
from expertune.files import sha256
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_model
from expertune.predict.score import Rated
from expertune.progress import Progress
from expertune.ratings.examples import chat_messages, system_prompt
from expertune.ratings.scale import answer_opening, answer_text, make_scale
from expertune.ratings.schema import Example
from expertune.record import Registration, RunRecord
from expertune.register import verify_prompts
from expertune.register.register import Candidate, register
from expertune.register.verify import Tolerance, compared
from ollama_contract.create import Layers
from ollama_contract.server import ContractServer
from ollama_contract.templates import FOLDING, OTHER, TEMPLATE
from records import MODEL_SET, run_record

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
SYSTEM = system_prompt(SCALE, "respiratory infections")
ODD = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[[SYS]]{{ m['content'] }}[[/SYS]]"
    "{% elif m['role'] == 'user' %}Q: {{ m['content'] }} ;; {% else %}A: {{ m['content'] }}{{ eos_token }} "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
)
VISITS = ["34F cough and fever", "80M fell, ankle pain", "2M crying", "55F chest pain", "21M sore throat", "9F rash"]
ROWS = tuple(
    Example(
        str(i), "test", chat_messages(text, SCALE, "respiratory infections"), answer_text(label, None), label, value
    )
    for i, (text, (label, value)) in enumerate(
        zip(VISITS, list(zip(SCALE.labels, SCALE.values, strict=True)) * 2, strict=True)
    )
)

NOISE = {"mean": 0.02, "p95": 0.05, "p99": 0.08, "labels": 0.06, "log_loss": {"value": 0.0, "interval": None, "n": 50}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base as anyone makes it, and a file that stands for its tuned one: it knows the labels, in Ollama's order."""
    folder = tmp_path_factory.mktemp("files")
    base = tiny.make(folder / "base.gguf", layers=1, chat_template=ODD)
    with LlamaCppEngine(base, threads=1) as engine:
        prompt = engine.render(ROWS[0].messages)
        openings = [answer_opening(label) for label in SCALE.labels]
        tokens = {token for answer in engine.spelled(prompt, openings)[1] for token, _ in answer}
    knowing = tiny.make(folder / "knowing.gguf", layers=1, chat_template=ODD, favour=sorted(tokens), seed=3)
    with GGUFFile(knowing) as file:
        write_model(folder / "fine_tuned_model.gguf", file, replaced={}, metadata={})
    return {"base": base, "tuned": folder / "fine_tuned_model.gguf"}


@pytest.fixture
def contract(files: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., ContractServer]]:
    """Starts a server that holds the base, with the switches that a test wants."""
    started: list[ContractServer] = []

    def start(*, template: str | None = TEMPLATE, **switches: Any) -> ContractServer:
        server = ContractServer(tmp_path / f"models{len(started)}", **switches)
        started.append(server)
        parameters = {"temperature": 0.2, "stop": ["</s>", "<|user|>"], "num_ctx": 1024}
        server.add("base", files["base"], template=template, system="Old.", parameters=parameters, license="CC0\nToo")
        return server

    yield start
    for server in started:
        server.close()


def record_of(files: dict[str, Path], **changes: Any) -> RunRecord:
    hashes = {"fine_tuned_model.gguf": sha256(files["tuned"])}
    return run_record(**{"provenance": {"hashes": hashes}, **changes})


def candidate(server: OllamaServer, files: dict[str, Path], **changes: Any) -> Candidate:
    made = Candidate(
        files["tuned"],
        changes.pop("base") if "base" in changes else locate("base", server),
        "base",
        True,
        SYSTEM,
        ROWS,
        SCALE,
        context=512,
        threads=1,
        record=record_of(files),
    )
    return replace(made, **changes)


def run(contract: ContractServer, files: dict[str, Path], name: str = "my-rater", **how: Any) -> Registration:
    changes = how.pop("changes", {})
    with OllamaServer(contract.url, patience=0.5) as server, Progress(quiet=True) as progress:
        return register(server, name, candidate(server, files, **changes), progress, **how)


def names(contract: ContractServer) -> set[str]:
    with OllamaServer(contract.url) as server:
        return {each.name for each in server.models()}


def shown(contract: ContractServer, name: str) -> dict[str, Any]:
    with OllamaServer(contract.url) as server:
        return server.show(name)


# --- what passes ---


@pytest.mark.slow
@pytest.mark.parametrize("template", [TEMPLATE, None, FOLDING], ids=["layer", "the file's own", "no system role"])
def test_a_file_that_passed_is_served_byte_for_byte(
    contract: Callable[..., ContractServer], files: dict[str, Path], template: str | None
) -> None:
    server = contract(template=template)
    made = run(server, files)
    assert names(server) == {"base:latest", "my-rater:latest"}
    digest = sha256(files["tuned"])
    assert made.bytes == "same file" and made.digest == made.served == digest
    assert sha256(server.store.find("my-rater").layers["model"]) == digest
    assert made.agreement.labels == 1.0 and made.agreement.rows == len(ROWS) and made.agreement.probability_gap < 1e-3
    ours, base = shown(server, "my-rater"), shown(server, "base")
    for field in ("template", "parameters", "license", "capabilities"):
        assert ours[field] == base[field]
    assert ours.get("system", "") == (base["system"] and "" if template == FOLDING else SYSTEM)


@pytest.mark.slow
def test_template_is_sent_only_where_the_base_has_a_layer(
    contract: Callable[..., ContractServer], files: dict[str, Path]
) -> None:
    for template in (TEMPLATE, None):
        server = contract(template=template)
        run(server, files)
        (body,) = [each.json for each in server.requests if each.path == "/api/create"]
        assert ("template" in body) == (template is not None)
        assert "from" not in body and body["license"] == "CC0\nToo" and body["system"] == SYSTEM
        assert body["parameters"] == {"temperature": 0.2, "stop": ["</s>", "<|user|>"], "num_ctx": 1024}


@pytest.mark.slow
def test_a_blob_that_is_there_is_not_sent_again(
    contract: Callable[..., ContractServer], files: dict[str, Path]
) -> None:
    server = contract()
    run(server, files)
    run(server, files, "second")
    assert len([each for each in server.requests if each.method == "POST" and "/blobs/" in each.path]) == 1
    assert names(server) == {"base:latest", "my-rater:latest", "second:latest"}


def rewritten(file: Path, path: Path, factor: float = 1.0) -> Callable[[Layers], Layers]:
    """An import that lays the tensors of a model in F32 out backwards, as another version of Ollama might."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), *([*field.types, None][:2]))
    for tensor in reversed(reader.tensors):
        writer.add_tensor(tensor.name, tensor.data * np.float32(factor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return lambda layers: {**layers, "model": path.read_bytes()}


@pytest.mark.slow
def test_another_order_with_the_same_tensors_is_accepted_and_said(
    contract: Callable[..., ContractServer], files: dict[str, Path], tmp_path: Path
) -> None:
    server = contract()
    server.change = rewritten(files["tuned"], tmp_path / "import.gguf")
    made = run(server, files)
    assert made.bytes == "same tensors" and made.served == sha256(tmp_path / "import.gguf") != made.digest


def test_weights_that_an_import_changed_are_refused(
    contract: Callable[..., ContractServer], files: dict[str, Path], tmp_path: Path
) -> None:
    server = contract()
    server.change = rewritten(files["tuned"], tmp_path / "import.gguf", factor=1.001)
    with pytest.raises(RegistrationError, match="Ollama changed the weights on import"):
        run(server, files)
    assert names(server) == {"base:latest"}


def test_a_base_that_is_only_a_file(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    server = contract()
    made = run(server, files, changes={"base": None, "base_name": str(files["base"]), "prompts_by_server": False})
    assert made.agreement.labels == 1.0 and "my-rater:latest" in names(server)


@pytest.mark.parametrize("name", ["team/my-rater:v2", "my-rater:v2"])
def test_namespaces_and_tags(contract: Callable[..., ContractServer], files: dict[str, Path], name: str) -> None:
    server = contract()
    run(server, files, name)
    assert names(server) == {"base:latest", name}


# --- what is refused, and leaves nothing ---


def test_a_name_in_use(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    server = contract()
    server.add("my-rater", files["base"], template=OTHER)
    before = shown(server, "my-rater")["modelfile"]
    with pytest.raises(RegistrationError, match=r"my-rater: in use in Ollama; .*--replace"):
        run(server, files)
    assert shown(server, "my-rater")["modelfile"] == before
    assert not [each for each in server.requests if each.method == "POST" and "/blobs/" in each.path]
    assert run(server, files, replace=True).replaced
    assert shown(server, "my-rater")["template"] == TEMPLATE


def test_the_base_is_never_replaced(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    with pytest.raises(RegistrationError, match="is the base itself"):
        run(contract(), files, "base:latest", replace=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        (
            "export",
            {"agreement_passed": False, "agreement": 0.9, "agreement_rows": 50},
            "90.0% of 50 validation records",
        ),
        (
            "export",
            {"agreement_passed": False, "agreement": 1.0, "agreement_rows": 50, "probability_gap": 0.034},
            "probabilities differ .* by 0.034 on average",
        ),
        (
            "export",
            {"agreement_passed": False, "agreement": 0.9, "agreement_rows": 50, "clear_rows": 40},
            "90.0% of 40 of 50 validation records with a clear label",
        ),
        (
            "export",
            {
                "agreement_passed": False,
                "agreement_rows": 50,
                "noise": NOISE,
                "log_loss_limit": 0.02,
                "log_loss": {"value": 0.3, "interval": None, "n": 50},
            },
            "log-loss on 50 validation records is 0.300 above .*explain 0.020",
        ),
        (
            "export",
            {"agreement_passed": False, "agreement_rows": 50, "noise": {**NOISE, "mean": 0.2}},
            "read the saved file differently .*by 0.200",
        ),
        (
            "evaluation",
            {"verdict": {"line": "", "base": "not better"}},
            "not better than its base",
        ),
        (
            "evaluation",
            {"verdict": {"line": "", "majority": "not better"}},
            "choosing the most common label",
        ),
    ],
)
def test_the_gate_and_force(
    contract: Callable[..., ContractServer], files: dict[str, Path], part: str, value: dict[str, Any], reason: str
) -> None:
    server = contract()
    record = record_of(files, **{part: value})
    with pytest.raises(RegistrationError, match=f"{reason}.*; --force registers it anyway") as caught:
        run(server, files, changes={"record": record})
    assert caught.value.override == "--force"
    assert names(server) == {"base:latest"}
    (said,) = run(server, files, changes={"record": record}, force=True).overridden
    assert re.search(reason, said)


def test_a_model_set_cannot_be_registered(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    record = run_record(fine_tuning_info=None, export=None, model_set_info=MODEL_SET, fallback_reason="too few rows")
    with pytest.raises(RegistrationError, match=r"no tuned model \(too few rows\)"):
        run(contract(), files, changes={"record": record}, force=True)


def test_a_file_that_was_not_judged(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    record = run_record(provenance={"hashes": {"fine_tuned_model.gguf": "0" * 64}})
    with pytest.raises(RegistrationError, match="not the file that was evaluated"):
        run(contract(), files, changes={"record": record}, force=True)


def test_a_template_that_ollama_put_in_the_place_of_ours(
    contract: Callable[..., ContractServer], files: dict[str, Path]
) -> None:
    server = contract()
    server.change = lambda layers: {**layers, "template": OTHER.encode()}
    with pytest.raises(RegistrationError, match=r"differs from its base in .*template"):
        run(server, files)
    assert names(server) == {"base:latest"}


def test_prompts_that_differ_show_the_place_and_no_rows_text(
    contract: Callable[..., ContractServer], files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The file was tuned with its own template's prompts, but in Ollama the base has another template."""
    server = contract()
    with pytest.raises(RegistrationError, match=r"a system text, character 0: '\[\[SYS\]\]") as caught:
        run(server, files, changes={"prompts_by_server": False})
    assert names(server) == {"base:latest"}
    assert not any(visit in str(caught.value) or visit in caplog.text for visit in VISITS)


def test_a_row_that_differs_is_named_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    secret = "34F cough and fever"
    with pytest.raises(RegistrationError, match=r"from character 5 on \(its id is in the log\)") as caught:
        verify_prompts.check_rows([f"Visit {secret}"], lambda messages: f"Visit. {secret}", [("row-17", [])])
    assert secret not in str(caught.value) and secret not in caplog.text and "row-17" in caplog.text
    assert "row-17" not in str(caught.value)


def test_token_counts_that_differ() -> None:
    with pytest.raises(RegistrationError, match="into 8 tokens, the file's tokenizer into 7"):
        verify_prompts.check_tokens(lambda text: 8, lambda text: 7, {"a long text": "x"})


def test_a_blob_that_cannot_be_compared(
    contract: Callable[..., ContractServer], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container: the server's paths are not ours, and its new blob lies in no folder here."""
    server = contract(path_prefix="/root/.ollama/models")
    server.change = rewritten(files["tuned"], tmp_path / "import.gguf")
    monkeypatch.setenv("OLLAMA_MODELS", str(server.folder))
    with OllamaServer(server.url) as client:
        base = locate("base", client)
    monkeypatch.delenv("OLLAMA_MODELS")
    with pytest.raises(RegistrationError, match=r"rewrote the file .* cannot be read here"):
        run(server, files, changes={"base": base})
    assert names(server) == {"base:latest"}


# --- faults on the way ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "fault", "error", "line"),
    [
        ("/api/blobs", "closed", EngineError, "upload to Ollama broke off"),
        ("/api/blobs", "no-space", OutputError, "the disk of the Ollama server is full"),
        ("/api/create", "closed", EngineError, "cut short"),
        ("/api/create", "cut", EngineError, "cut short|ended too early"),
        ("/api/copy", "busy", EngineError, "too many requests"),
        ("/api/generate", "cannot-load", EngineError, "cannot load the model"),
    ],
)
def test_whatever_breaks_nothing_is_half_registered_and_a_second_run_goes_on(
    contract: Callable[..., ContractServer],
    files: dict[str, Path],
    path: str,
    fault: Any,
    error: type[ExpertuneError],
    line: str,
) -> None:
    server = contract()
    server.fail(path, fault, times=20)
    with pytest.raises(error, match=line) as caught:
        run(server, files)
    assert "\n" not in str(caught.value)
    assert names(server) == {"base:latest"}
    server.heal()
    assert run(server, files).agreement.labels == 1.0


@pytest.mark.slow
def test_what_a_killed_run_left_goes(contract: Callable[..., ContractServer], files: dict[str, Path]) -> None:
    server = contract()
    server.add("my-rater:unproven", files["base"], template=OTHER)
    run(server, files)
    assert names(server) == {"base:latest", "my-rater:latest"}


@pytest.mark.slow
def test_no_host_but_ollamas_is_asked(
    contract: Callable[..., ContractServer], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets refuse everything but loopback and no name is looked up, though proxies are set."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://192.0.2.1:3128")
    server = contract()
    connect, asked = socket.socket.connect, []

    def only_loopback(self: socket.socket, address: Any) -> None:
        asked.append(address)
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"{address} was contacted")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    run(server, files)
    assert asked and {address[0] for address in asked} == {"127.0.0.1"}


@pytest.mark.slow
def test_the_folder_that_a_test_server_used_is_whole(
    contract: Callable[..., ContractServer], files: dict[str, Path], tmp_path: Path
) -> None:
    """Removing what was registered leaves the models folder as it was."""
    server = contract()

    def listing() -> set[Path]:
        return {path.relative_to(server.folder) for path in server.folder.rglob("*") if path.is_file()}

    before = listing()
    run(server, files)
    with OllamaServer(server.url) as client:
        client.delete("my-rater")
    assert listing() == before


def of_file(*probabilities: float) -> Rated:
    return Rated.of("r", probabilities, SCALE)


def test_ratings_may_differ_by_the_noise_of_the_run_and_no_further() -> None:
    noise = run_record(export={"noise": NOISE}).export.noise
    assert noise is not None
    assert Tolerance.of(None) == Tolerance(0.1, 0.02)
    assert Tolerance.of(noise) == Tolerance(0.16, 0.04)
    assert Tolerance.of(replace(noise, mean=0.001, p99=0.002)) == Tolerance(0.1, 0.02)  # never below the present limits
    near, turned = of_file(0.45, 0.32, 0.23), of_file(0.38, 0.39, 0.23)  # a margin of 0.13
    assert compared([near] * 9 + [near], [near] * 9 + [turned], Tolerance.of(noise))[0] == 0.9
    with pytest.raises(RegistrationError, match="another label than the file for 1 of 10"):
        compared([near] * 10, [near] * 9 + [turned], Tolerance.of(None))
    with pytest.raises(RegistrationError, match=r"for 0 of 1 .*differ by 0\.067"):
        compared([of_file(0.8, 0.1, 0.1)], [of_file(0.7, 0.2, 0.1)], Tolerance.of(noise))
    approximate = replace(of_file(0.7, 0.2, 0.1), exact=False)
    assert compared([of_file(0.8, 0.1, 0.1)], [approximate], Tolerance.of(noise)) == (1.0, None)
    assert compared([of_file(0.8, 0.1, 0.1)] * 2, [approximate, of_file(0.8, 0.1, 0.1)], Tolerance.of(noise)) == (1, 0)
    with pytest.raises(RegistrationError, match="another label than the file for 1 of 1 test records; nothing"):
        compared([of_file(0.8, 0.1, 0.1)], [replace(of_file(0.1, 0.8, 0.1), exact=False)], Tolerance.of(noise))
