"""`rate --engine ollama` says when the server answers otherwise than at registration, and goes on."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tiny
from commands import expertune
from expertune.predict.score import Rated
from expertune.rate.artifact import Artifact, load_product
from expertune.rate.registered_sample import LEAST_GAP, RECORDS, _difference, change_since_registration, write_sample
from expertune.rate.serve import serve
from ollama_contract.server import ContractServer
from rate.stub import SCALE, read_csv, visits, write_csv, write_run
from records import EXPORT
from register.test_register import NOISE

PROMPTS = [row["Prompt"] for row in visits(RECORDS + 2)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContractServer]:
    with ContractServer(tmp_path / "models") as running:
        monkeypatch.setenv("OLLAMA_HOST", running.url)
        yield running


@pytest.fixture
def product(tmp_path: Path, server: ContractServer) -> Artifact:
    """A registered run whose server answers now as it did then."""
    registration, export = {"name": "mine", "registered": True}, {**EXPORT, "noise": NOISE}
    folder = write_run(
        tmp_path / "run", tiny.make(tmp_path / "base.gguf", layers=1), registration=registration, export=export
    )
    found = load_product(folder)
    assert found.file is not None
    server.add("mine", found.file)
    with serve(found, "ollama", threads=1) as served:
        rated = [Rated.of("", served.scorer.score(prompt).probabilities, SCALE) for prompt in PROMPTS]
        write_sample(folder, served.digest, "0.33.0", PROMPTS, rated)
    return found


def change(product: Artifact) -> str | None:
    with serve(product, "ollama", threads=1) as served:
        return change_since_registration(product, served)


def rewrite(product: Artifact, **changes: object) -> None:
    path = product.folder / "registration_sample.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_the_same_answers_are_not_worth_a_word(product: Artifact) -> None:
    path = product.folder / "registration_sample.json"
    assert len(json.loads(path.read_text())["records"]) == RECORDS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert change(product) is None


@pytest.mark.slow
def test_other_answers_are_said_in_one_line_and_rating_goes_on(product: Artifact, server: ContractServer) -> None:
    then = {"prompt": PROMPTS[0], "probabilities": [0.9, 0.05, 0.05]}
    now = {"prompt": PROMPTS[0], "probabilities": [0.05, 0.05, 0.9]}
    rewrite(product, records=[then, now])
    new, output = write_csv(product.folder / "new.csv", visits(3)), product.folder / "rated.csv"
    ended = expertune("rate", new, "--with", product.folder, "--engine", "ollama", "--output", output, host=server.host)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("warning: ")]
    assert "Ollama answers otherwise than at registration (then version 0.33.0): 1 of 2 sample records" in line or (
        "Ollama answers otherwise than at registration (then version 0.33.0): 2 of 2 sample records" in line
    )
    assert "(reading explains 0.020)" in line and PROMPTS[0] not in line
    assert len(read_csv(output)) == 3 and server.generator.loaded == {}


@pytest.mark.parametrize("changes", [{"served": "0" * 64}, {"records": []}, {"records": "damaged"}])
def test_nothing_to_compare(product: Artifact, changes: dict[str, object]) -> None:
    rewrite(product, **changes)
    assert change(product) is None


def test_a_run_registered_by_an_earlier_version(product: Artifact) -> None:
    (product.folder / "registration_sample.json").unlink()
    assert change(product) is None


def test_a_sample_that_cannot_be_rated(product: Artifact) -> None:
    rewrite(product, records=[{"prompt": "cough " * 900, "probabilities": [0.2, 0.4, 0.4]}])
    line = change(product)
    assert line is not None and line.startswith("the registration's sample could not be rated")
    assert "\n" not in line and "cough cough" not in line


def test_what_is_said_and_what_is_not(product: Artifact) -> None:
    """The noise of the run is the limit, and a clear label that changed is always said."""
    before = np.array([[0.5, 0.3, 0.2]] * 11 + [[0.6, 0.2, 0.2]])
    shift = np.array([1.0, -1.0, 0.0])
    assert _difference(before.tolist(), (before + 0.019 * shift).tolist(), product.noise) is None
    assert "0 of 12" in str(_difference(before.tolist(), (before - 0.021 * shift).tolist(), product.noise))
    assert _difference(before.tolist(), (before + (LEAST_GAP - 1e-3) * shift).tolist(), None) is None
    assert "differ by 0.011" in str(_difference(before.tolist(), (before + (LEAST_GAP + 1e-3) * shift).tolist(), None))
    clear = before.copy()
    clear[11] = [0.3, 0.5, 0.2]
    assert "1 of 12 sample records get another label" in str(
        _difference(before.tolist(), clear.tolist(), product.noise)
    )
