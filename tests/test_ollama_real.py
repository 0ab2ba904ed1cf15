"""The whole way on a real Ollama: models → tune --register → compare → rate → remove. `pytest -m ollama` asks for it.

The server is the one at OLLAMA_HOST; the bases are brought along, and nothing that a test made is left there.
With EXPERTUNE_REALMODEL=1 also with SmolLM2. EXPERTUNE_TEST_THREADS limits the processor threads of the product.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench.ollama_agreement import compare
from examples.real_models import Unavailable, fetch

from commands import ROOT, expertune
from easy_records import easy_records
from expertune.engine.ollama.server import OllamaServer, running_server
from expertune.files import sha256
from ollama_contract.templates import TEMPLATE

pytestmark = pytest.mark.ollama

ROWS = ROOT / "examples/formatted_dataset.csv"
TOPIC = "respiratory infections"
LABELS = {"Match", "Does Not Match", "Unknown"}
BASE, RATER = "expertune-test-base", "expertune-test-rater"
THREADS = int(os.environ.get("EXPERTUNE_TEST_THREADS", "0"))
COMMON = {
    "approach": "tune",
    "class-weight": "none",
    "bootstrap-resamples": 200,
    "rank": 8,
    **({"threads": THREADS} if THREADS else {}),
    "compute-dtype": "fp32",
}
TINY = {"epochs": 3, "learning-rate": 3e-3, "batch-size": 4}
# In F16 no product rounds its activations to 8 bits, so two builds of llama.cpp agree on one file (docs/ollama.md).
# Only tensors with an adapter are in F16, so all blocks get one.
SMOLLM2 = {
    "epochs": 2, "learning-rate": 1e-3, "batch-size": 4, "layers": "all", "test-share": 0.2, "export-type": "F16"
}  # fmt: skip


def digests(server: OllamaServer) -> dict[str, str]:
    return {each["name"]: each["digest"] for each in server.ask("GET", "/api/tags")["models"]}


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    """After the test the server holds what it held before."""
    found = running_server()
    if found is None:
        pytest.skip("no Ollama server answers at OLLAMA_HOST")
    with found:
        before = digests(found)
        assert not {f"{BASE}:latest", f"{RATER}:latest"} & set(before), "an earlier test left its models; remove them"
        try:
            yield found
        finally:
            for name in (RATER, BASE):
                found.delete(name)
        assert digests(found) == before


def put(server: OllamaServer, file: Path, **fields: str) -> None:
    digest = f"sha256:{sha256(file)}"
    server.upload(file, digest, lambda count: None)
    body = {"model": BASE, "files": {file.name: digest}, **fields}
    assert list(server.stream("/api/create", body))[-1]["status"] == "success"


def registered(server: OllamaServer, rows: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the run's metadata say of the registration, after `models` has listed the base and `tune` has ended."""
    listed = expertune("models", "--quick", host=server.url).stdout
    (line,) = [line for line in listed.splitlines() if line.startswith(BASE)]
    assert "llama" in line and " yes " in line
    flags = [part for name, value in (COMMON | settings).items() for part in (f"--{name}", value)]
    ended = expertune(
        "tune", "--input", rows, "--no-readout", "--model", BASE, "--topics", TOPIC, "--output-dir", folder, *flags,
        "--register", RATER, "--force", host=server.url,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    made = json.loads((folder / "fine_tuning_metadata.json").read_text())["registration"]
    assert made["registered"], made
    assert made["served"] == made["digest"] == sha256(folder / "fine_tuned_model.gguf")
    assert f"{RATER}:latest" in digests(server) and f"{RATER}:unproven" not in digests(server)
    return made


def some_rows(folder: Path, count: int) -> Path:
    path = folder / "some.csv"
    pd.read_csv(ROWS).head(count).to_csv(path, index=False)
    return path


def rated(server: OllamaServer, folder: Path, count: int) -> pd.DataFrame:
    """New records, rated through the server."""
    new, output = folder / "new.csv", folder / "rated.csv"
    pd.read_csv(ROWS).tail(count)[["Row_ID", "Prompt"]].to_csv(new, index=False)
    ended = expertune("rate", new, "--with", folder, "--engine", "ollama", "--output", output, "--threads", THREADS,
                      host=server.url)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return pd.read_csv(output)


def test_the_whole_way_with_the_example_base(server: OllamaServer, tmp_path: Path) -> None:
    put(server, ROOT / "examples/base.gguf", template=TEMPLATE)
    made = registered(server, some_rows(tmp_path, 110), tmp_path / "run", TINY)
    assert made["agreement"]["labels"] >= 0.9
    found = rated(server, tmp_path / "run", 20)
    assert len(found) == 20 and set(found["Predicted_Label"]) <= LABELS


@pytest.mark.realmodel
def test_the_whole_way_with_smollm2(server: OllamaServer, tmp_path: Path) -> None:
    """And the label of a plain chat, Ollama's probabilities and the embedded engine's, on the test records."""
    try:
        put(server, fetch("smollm2"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    folder = tmp_path / "run"
    easy_records(66).to_csv(rows := tmp_path / "rows.csv", index=False)
    registered(server, rows, folder, SMOLLM2)
    found = compare(server, folder, RATER, threads=THREADS)
    assert found.same_file and found.exact == len(found.expert_N) >= 12
    assert found.gap_N.mean() < 0.01
    clear = found.margin_N > 0.1
    assert clear.sum() >= 4
    for way, label_N in found.labels.items():
        assert (label_N == found.labels["embedded engine"])[clear].all(), way
    assert len(rated(server, folder, 6)) == 6
    (folder / "fine_tuned_model.gguf").unlink()  # 244 MB that pytest would keep for three sessions
