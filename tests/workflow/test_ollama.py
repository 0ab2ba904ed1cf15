"""What a run does with a model that Ollama serves, where no training is needed to see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tiny
from expertune.config import make_config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.locate import Located
from expertune.engine.ollama.render import OllamaRenderer, check_tokens
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import FineTuningNotSupportedError
from expertune.fine_tuner import FineTuner
from expertune.outputs import write_modelfile
from expertune.ratings.dataset import load_dataset
from ollama_contract.server import ContractServer
from ollama_contract.templates import TEMPLATE

ROWS = Path(__file__).resolve().parents[2] / "examples/formatted_dataset.csv"
SYSTEM = 'Rate the record. Answer in JSON: {"rating": "Match" or "Does Not Match", "rationale": "why"}'


@contextmanager
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **switches: Any) -> Iterator[ContractServer]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no models folder of the user's
    with ContractServer(tmp_path / "models", **switches) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        yield server


@pytest.mark.slow
def test_a_model_in_a_container_leads_to_a_model_set_that_ollama_itself_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch, path_prefix="/root/.ollama/models") as server:
        server.add("boxed", tiny.make(tmp_path / "boxed.gguf", layers=1, context=2048), template=TEMPLATE)
        rows = pd.read_csv(ROWS).head(60)
        success, metadata = FineTuner(quiet=True).process_dataset(
            rows, "boxed", None, "respiratory infections", tmp_path / "out", bootstrap_resamples=100
        )
        assert success and "container" in metadata["fallback_reason"]
        assert metadata["model_set_info"]["judged"] is True, metadata["verdict"]
        asked = [each for each in server.requests if each.path == "/api/generate"]
        assert len(asked) >= metadata["split"]["test"]
        test_rows = {each["name"]: each["rows"] for each in metadata["evaluation"]["evaluations"]}
        assert test_rows["few-shot"] == test_rows["base"] == metadata["split"]["test"]


@pytest.mark.slow
def test_a_server_that_reads_other_tokens_is_not_tuned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file at hand has another tokenizer than the model that the server asks."""
    ours = tiny.make(tmp_path / "spm.gguf", layers=1, vocab="spm", context=2048)
    with serving(tmp_path, monkeypatch) as contract:
        contract.add("theirs", tiny.make(tmp_path / "bpe.gguf", layers=1, context=2048), template=TEMPLATE)
        prepared = load_dataset(ROWS, None, "respiratory infections", make_config({}))
        with OllamaServer() as server:
            renderer = OllamaRenderer(server, "theirs", context=1024)
            with (
                LlamaCppEngine(ours, context=1024, threads=1, renderer=renderer) as engine,
                pytest.raises(FineTuningNotSupportedError, match=r"splits a prompt into \d+ tokens, .* \d+;"),
            ):
                check_tokens(renderer, engine, prepared.examples.train[0].messages)


def test_before_training_the_model_leaves_the_servers_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.make(tmp_path / "bpe.gguf", layers=1, context=2048)
    with serving(tmp_path, monkeypatch) as contract:
        contract.add("base", path, template=TEMPLATE)
        prepared = load_dataset(ROWS, None, "respiratory infections", make_config({}))
        with OllamaServer() as server:
            renderer = OllamaRenderer(server, "base", context=1024)
            with LlamaCppEngine(path, context=1024, threads=1, renderer=renderer) as engine:
                check_tokens(renderer, engine, prepared.examples.train[0].messages)
            assert server.ask("GET", "/api/ps")["models"] == []


def test_an_invalid_or_taken_name_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch) as contract:
        contract.add("base", tiny.make(tmp_path / "bpe.gguf", layers=1), template=TEMPLATE)
        contract.add("other", tmp_path / "bpe.gguf", template=TEMPLATE)
        lines = (("base", "is the base itself"), ("other", "in use in Ollama"), ("bad name!", "bad name!"))
        for name, line in lines:
            with pytest.raises(Exception, match=line):
                FineTuner(quiet=True).process_dataset(ROWS, "base", output_dir=tmp_path / "out", register=name)
        assert not (tmp_path / "out").exists()


def modelfile(folder: Path, **located: Any) -> str:
    base = Located(Path("base.gguf"), "base", "ollama", **located)
    write_modelfile(folder, base, system=SYSTEM)
    return (folder / "Modelfile").read_text()


def test_a_modelfile_with_a_template_layer(tmp_path: Path) -> None:
    text = modelfile(
        tmp_path,
        template=TEMPLATE,
        parameters={"stop": ["</s>", "<|user|>"], "temperature": 0.2, "num_ctx": 1024},
        license="MIT\nAs is",
        renderer="qwen3",
        parser="qwen3",
    )
    assert text == (
        f'FROM ./fine_tuned_model.gguf\nTEMPLATE """{TEMPLATE}"""\nSYSTEM """{SYSTEM}"""\nRENDERER qwen3\n'
        'PARSER qwen3\nLICENSE "MIT\nAs is"\nPARAMETER stop </s>\nPARAMETER stop <|user|>\n'
        "PARAMETER temperature 0.2\nPARAMETER num_ctx 1024\n"
    )


def test_a_modelfile_without_one_says_nothing_of_a_template(tmp_path: Path) -> None:
    """The file's own Jinja is used then; Ollama could not read it as a TEMPLATE (recorded: function not defined)."""
    assert modelfile(tmp_path) == f'FROM ./fine_tuned_model.gguf\nSYSTEM """{SYSTEM}"""\n'


def test_the_recorded_modelfile_is_quoted_as_ours(tmp_path: Path) -> None:
    """What a real server wrote for these texts (exchange "show"), line by line."""
    recorded = json.loads(
        (Path(__file__).parents[1] / "data/ollama_exchanges/41-show.json").read_text(encoding="utf-8")
    )["response"]["json"]
    text = modelfile(
        tmp_path,
        template=recorded["template"],
        parameters={"num_ctx": 1024, "stop": ["</s>"], "temperature": 0.2},
        license="CC0",
    )
    theirs = recorded["modelfile"]
    for key in ("TEMPLATE", "LICENSE", "PARAMETER num_ctx", "PARAMETER stop", "PARAMETER temperature"):
        at, ours = theirs.index(f"\n{key} ") + 1, text.index(f"\n{key} ") + 1
        end = theirs.index('"""\n', at + 20) + 4 if key == "TEMPLATE" else theirs.index("\n", at) + 1
        assert text[ours : ours + end - at] == theirs[at:end]
