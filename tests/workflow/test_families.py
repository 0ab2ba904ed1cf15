"""The whole job on the example base told again as another family, with joined matrices; bench/families_job.py: more."""

from __future__ import annotations

from pathlib import Path

import pytest

import convert_architecture
from easy_records import easy_records
from expertune.fine_tuner import FineTuner

ROOT = Path(__file__).resolve().parents[2]
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}


@pytest.mark.slow
def test_a_model_of_another_family_is_tuned_and_proven(tmp_path: Path) -> None:
    success, metadata = FineTuner(quiet=True).process_dataset(
        easy_records(),
        str(convert_architecture.make(tmp_path / "base.gguf", "phi3")),
        MAPPING,
        "respiratory infections",
        tmp_path / "out",
        epochs=2,
        learning_rate=3e-3,
        rank=16,
        batch_size=4,
        class_weight="none",
        bootstrap_resamples=100,
        compute_dtype="fp32",
        approach="tune",
        readout=False,
    )
    assert success
    assert metadata["fallback_reason"] is None
    f1 = {each["name"]: each["macro_f1"]["value"] for each in metadata["evaluation"]["evaluations"]}
    assert f1["tuned"] > f1["base"] + 0.1
    assert (tmp_path / "out" / "fine_tuned_model.gguf").is_file()
