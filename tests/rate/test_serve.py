"""Who answers for a product: never another file than the judged one, never in other words than it was taught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from expertune.engine.ollama.engine import OllamaEngine
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError, UsageError
from expertune.files import sha256
from expertune.modelset.build import BuildInputs, build, recipes
from expertune.modelset.config import write
from expertune.predict.score import rate_examples
from expertune.rate.artifact import Artifact, load_product
from expertune.rate.columns import share_columns
from expertune.rate.runner import rate_file
from expertune.rate.serve import Kind, serve
from expertune.ratings.schema import Example, Rating, Split
from ollama_contract.server import ContractServer
from ollama_contract.templates import OTHER
from rate.stub import MAPPING, SCALE, TOPIC, Counted, read_csv, visits, write_csv, write_run


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContractServer]:
    with ContractServer(tmp_path / "models") as running:
        monkeypatch.setenv("OLLAMA_HOST", running.url)
        yield running


def tuned(folder: Path, *, prompts_by: str = "the file's own template", **more: object) -> Path:
    run = write_run(folder / "run", tiny.make(folder / "base.gguf"))
    hashes = {"fine_tuned_model.gguf": sha256(run / "fine_tuned_model.gguf"), "base": "0" * 64}
    return write_run(
        folder / "run",
        run / "fine_tuned_model.gguf",
        provenance={"hashes": hashes, "base": {"path": "base.gguf", "prompts_by": prompts_by, "source": "ollama"}},
        **more,
    )


def model_set(folder: Path, base: str) -> Path:
    (folder / "set").mkdir()
    rows = [Rating(str(i), i, f"visit {i}", value, label) for i, (label, value) in enumerate(MAPPING.items())]
    split = Split(tuple(rows), (), (), {}, 1)
    inputs = BuildInputs(base, split, SCALE, TOPIC, created_at="2026-01-01T00:00:00Z", seed=1)
    config = build(inputs, recipes(3, redact=True)[0]).changed(system_prompt="Rate.")
    write(folder / "set" / "model_set_config.json", config)
    return folder / "set"


def rated(product: Artifact, folder: Path, kind: Kind, **how: object) -> list[list[float]]:
    source, output = write_csv(folder / "new.csv", visits(6)), folder / f"{kind}.csv"
    with serve(product, kind, threads=1, **how) as served:  # pyright: ignore[reportArgumentType]
        rate_file(source, output, product, served, Counted().stage)
    return [[float(row[column]) for column in share_columns(SCALE).values()] for row in read_csv(output)]


def test_our_own_decoder_writes_the_file_that_llama_cpp_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    product = load_product(tuned(tmp_path))
    by_llama_cpp, by_torch = (rated(product, tmp_path, kind) for kind in ("llama.cpp", "torch"))
    for ours, theirs in zip(by_torch, by_llama_cpp, strict=True):
        assert ours == pytest.approx(theirs, abs=5e-3)  # llama.cpp keeps keys and values in half precision
    columns = [
        [{**row, **dict.fromkeys(row.keys() - {"Prompt", "Predicted_Label"}, "")} for row in read_csv(tmp_path / name)]
        for name in ("llama.cpp.csv", "torch.csv")
    ]
    assert columns[0] == columns[1]


@pytest.mark.slow
def test_the_registered_model_rates_as_its_engine_does(tmp_path: Path, server: ContractServer) -> None:
    product = load_product(tuned(tmp_path, registration={"name": "mine", "registered": True}))
    assert product.file is not None
    server.add("mine", product.file)
    examples = [Example("", "", tuple(product.messages(row["Prompt"])), "", "", 0) for row in visits(6)]
    with (
        OllamaServer() as asked,
        OllamaEngine(asked, "mine", context=product.context, file=product.file, threads=1) as engine,
    ):
        expected = rate_examples(engine, examples, SCALE)
    for shares, rating in zip(rated(product, tmp_path, "ollama"), expected, strict=True):
        assert shares == pytest.approx(rating.probabilities, abs=1e-4)
    with serve(product, "ollama", slots=3, context=400) as served:
        assert (served.workers, served.scorer.describe()["context"], served.digest) == (3, 400, product.sha256)


@pytest.mark.slow
def test_another_file_under_the_name_is_refused(tmp_path: Path, server: ContractServer) -> None:
    product = load_product(tuned(tmp_path))
    server.add("other", tiny.make(tmp_path / "other.gguf", seed=5))
    with (
        pytest.raises(UsageError, match=r"other: Ollama serves another file .* than the tuned file that was judged"),
        serve(product, "ollama", model="other"),
    ):
        pass
    with pytest.raises(UsageError, match="not registered with Ollama"), serve(product, "ollama"):
        pass
    with pytest.raises(UsageError, match="absent"), serve(product, "ollama", model="absent"):
        pass


@pytest.mark.slow
def test_prompts_that_ollama_wrote_are_written_by_ollama(tmp_path: Path, server: ContractServer) -> None:
    folder = tuned(tmp_path, prompts_by="Ollama 0.33.0", registration={"name": "mine", "registered": True})
    product = load_product(folder)
    assert product.file is not None
    with pytest.raises(UsageError, match="neither this base nor the registered model"), serve(product, "llama.cpp"):
        pass
    server.add("mine", product.file, template=OTHER)
    with serve(product, "llama.cpp", threads=1) as served:
        assert served.scorer.render("hi").endswith("<|user|> hi\n<|assistant|>\n")
    server.close()
    with pytest.raises(UsageError, match=r"start it .*so that the model is asked as it was taught"):
        rated(product, tmp_path, "llama.cpp")


@pytest.mark.slow
def test_a_model_set_is_asked_of_its_base(tmp_path: Path, server: ContractServer) -> None:
    base = tiny.make(tmp_path / "base.gguf")
    server.add("base", base)
    product = load_product(model_set(tmp_path, "base"))
    by_server = rated(product, tmp_path, "ollama")
    with serve(product, "ollama") as served:
        assert served.digest == sha256(base)
    by_file = rated(load_product(model_set(tmp_path / "models", str(base))), tmp_path, "llama.cpp")
    assert len(by_server) == len(by_file) == 6
    known = Artifact(**{**product.__dict__, "sha256": "1" * 64})
    kinds: tuple[tuple[Kind, str], ...] = (
        ("ollama", "the file that the model set was made for"),
        ("llama.cpp", "no longer the file"),
    )
    for kind, said in kinds:
        with pytest.raises(UsageError, match=said), serve(known, kind):
            pass


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(EngineError, match="no Ollama server answers"), serve(load_product(tuned(tmp_path)), "ollama"):
        pass
