"""A run with a code branch: its record, the way of scoring afterwards, and the file as a decision model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from easy_records import easy_records
from expertune.config import make_config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.fine_tuner import FineTuner
from expertune.gguf.read import GGUFFile
from expertune.modelset.code_branch import untuned
from expertune.predict.score import rate_examples
from expertune.rate.artifact import load_product
from expertune.rate.http_server import served_file
from expertune.rate.serve import Kind, serve
from expertune.ratings.codes import LabelScoring, ScoredBy
from expertune.ratings.dataset import load_dataset
from expertune.ratings.scale import make_scale
from expertune.record import CodeBranchInfo, read_record
from expertune.register.folder import load_dataset_again
from expertune.report_record import ReportRecord
from records import plain_record, run_record

ROOT = Path(__file__).resolve().parents[2]
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
TOPIC = "respiratory infections"
ROUNDING = 0.03  # of a probability, between llama.cpp and our decoder on a quantised file
SETTINGS: dict[str, Any] = {
    "epochs": 3, "learning_rate": 3e-3, "rank": 8, "batch_size": 4, "class_weight": "none", "bootstrap_resamples": 100,
    "compute_dtype": "fp32", "approach": "tune", "readout": False, "code_branch": True, "code_weight": 1.0,
}  # fmt: skip
INFO = CodeBranchInfo(
    lead="Code:",
    codes={"Match": " A", "Does Not Match": " B", "Unknown": " C"},
    scored_by="both",
    reason="log-loss",
    validation={"words": {"macro_f1": 0.5, "log_loss": 1.0}},
)


def frame() -> pd.DataFrame:
    return easy_records()


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run_record(code_branch=INFO.model_dump()).write(tmp_path)
    record = read_record(tmp_path)
    assert record.code_branch == INFO and record.scoring == LabelScoring("both", INFO.branch)
    assert INFO.branch.answers() == ("Code: A", "Code: B", "Code: C")
    assert ReportRecord.of_run(record).code_branch == INFO


def test_a_record_without_a_code_branch_scores_words(tmp_path: Path) -> None:
    plain = plain_record()
    assert "code_branch" not in plain
    (tmp_path / "fine_tuning_metadata.json").write_text(json.dumps(plain))
    record = read_record(tmp_path)
    assert record.branch is None and record.scoring == LabelScoring()
    assert "code_branch" not in record.to_dict()


def test_a_run_without_a_tuned_model_keeps_the_codes_of_its_prompts() -> None:
    found = untuned(INFO.branch, make_scale(MAPPING))
    assert found is not None and found.branch == INFO.branch and found.scoring.by == "words"
    assert untuned(None, make_scale(MAPPING)) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    base = str(ROOT / "examples" / "base.gguf")
    _, metadata = FineTuner(quiet=True).process_dataset(frame(), base, MAPPING, TOPIC, folder, **SETTINGS)
    assert metadata["fallback_reason"] is None
    return folder, metadata


def shares(folder: Path, by: ScoredBy, count: int = 4) -> np.ndarray:
    """Probabilities of the first test records by the tuned file."""
    record = read_record(folder)
    data = load_dataset(frame(), MAPPING, TOPIC, make_config({"seed": record.seed})).with_codes(record.branch)
    with LlamaCppEngine(folder / "fine_tuned_model.gguf", context=1024, threads=1) as engine:
        scoring = LabelScoring(by, record.branch)
        return np.array(
            [
                each.probabilities
                for each in rate_examples(engine, data.examples.test[:count], data.scale, scoring=scoring)
            ]
        )


@pytest.mark.slow
def test_the_record_says_how_labels_are_scored(run: tuple[Path, dict[str, Any]]) -> None:
    folder, metadata = run
    found = metadata["code_branch"]
    assert list(found["codes"]) == list(MAPPING) and set(found["validation"]) == {"words", "code", "both"}
    losses = {way: each["log_loss"] for way, each in found["validation"].items()}
    assert losses[found["scored_by"]] <= losses["words"]
    assert json.loads((folder / "report.json").read_text())["code_branch"] == found
    first = json.loads((folder / "training_data.jsonl").read_text().splitlines()[0])
    assert "Codes: A = Match; B = Does Not Match; C = Unknown." in first["messages"][0]["content"]
    assert load_dataset_again(folder, read_record(folder), frame()).system == first["messages"][0]["content"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "by"), [("llama.cpp", "words"), ("llama.cpp", "code"), ("llama.cpp", "both"), ("torch", "both")]
)
def test_new_records_are_scored_in_the_recorded_way(
    run: tuple[Path, dict[str, Any]], engine: Kind, by: ScoredBy
) -> None:
    folder, metadata = run
    changed = {**metadata, "code_branch": {**metadata["code_branch"], "scored_by": by}}
    (folder / "fine_tuning_metadata.json").write_text(json.dumps(changed))
    product = load_product(folder)
    data = load_dataset(frame(), MAPPING, TOPIC, make_config({"seed": product.seed}))
    with serve(product, engine, threads=1) as served:
        texts = [example.record for example in data.examples.test[:4]]
        found = np.array([served.scorer.score(text).probabilities for text in texts])
    assert np.abs(found - shares(folder, by)).max() < (1e-6 if engine == "llama.cpp" else ROUNDING)
    assert product.config_id != load_product(_with_way(folder, changed, "code" if by != "code" else "words")).config_id


def _with_way(folder: Path, metadata: dict[str, Any], by: str) -> Path:
    changed = {**metadata, "code_branch": {**metadata["code_branch"], "scored_by": by}}
    (folder / "fine_tuning_metadata.json").write_text(json.dumps(changed))
    return folder


@pytest.mark.slow
def test_the_file_is_a_decision_model(run: tuple[Path, dict[str, Any]]) -> None:
    folder, metadata = run
    temperature = metadata["code_branch"]["temperature"]
    served = served_file(folder)
    assert served.route == "/v1/systemone" and served.note == metadata["code_branch"]["note"]
    assert list(served.body["questions"]["rating"]["criteria"]) == list(MAPPING)
    with GGUFFile(folder / "fine_tuned_model.gguf") as file:
        assert file.metadata("llama.decision.type") == "nimble"
        assert file.metadata("llama.decision.temperature.choice") == pytest.approx(temperature)
    logs_NK = np.log(shares(folder, "code")) / temperature
    expected_NK = np.exp(logs_NK) / np.exp(logs_NK).sum(1, keepdims=True)
    question = {"type": "choice", "instructions": "rate", "criteria": dict.fromkeys(MAPPING, "")}
    data = load_dataset(frame(), MAPPING, TOPIC, make_config({"seed": metadata["seed"]}))
    with LlamaCppEngine(folder / "fine_tuned_model.gguf", context=1024, threads=1) as engine:  # the judged rounding
        for example, wanted_K in zip(data.examples.test, expected_NK, strict=False):
            body = {"state": example.record, "questions": {"rating": question}}
            answer = engine._server.ask("/v1/systemone", body)["answers"]["rating"]
            assert answer["probabilities"] == pytest.approx(dict(zip(MAPPING, wanted_K, strict=True)), abs=1e-3)
