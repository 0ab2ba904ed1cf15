"""A real tuned model as a decision model: `/v1/systemone` gives the judged probabilities of its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from examples.real_models import Unavailable, fetch
from scripts.fine_tuner import FineTuner

from expertune.config import make_config
from expertune.engine.decision import make_question
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.predict.score import rate_examples
from expertune.ratings.codes import LabelScoring
from expertune.ratings.dataset import load_dataset
from expertune.record import read_record
from realmodel.test_whole_job import MAPPING, ROOT, TOPIC
from realmodel.test_whole_job import SETTINGS as COMMON

pytestmark = pytest.mark.realmodel

ROWS = 150  # 30 of them test records
SETTINGS: dict[str, Any] = {**COMMON, "epochs": 2, "approach": "tune", "readout": False, "code_branch": True}


def frame() -> pd.DataFrame:
    return pd.read_csv(ROOT / "examples" / "formatted_dataset.csv").head(ROWS)


def tune(folder: Path) -> Path:
    """A run on SmolLM2 with a code branch; its folder. Raises Unavailable."""
    model = fetch("smollm2")
    _, metadata = FineTuner(quiet=True).process_dataset(frame(), str(model), MAPPING, TOPIC, folder, **SETTINGS)
    assert metadata["code_branch"] is not None and (folder / "fine_tuned_model.gguf").exists()
    return folder


def differences(folder: Path) -> np.ndarray:
    """Largest difference of a probability on each test record: the decision, and the code's scores as a run judges
    them, after the temperature."""
    record = read_record(folder)
    assert record.code_branch is not None
    data = load_dataset(frame(), MAPPING, TOPIC, make_config(SETTINGS)).with_codes(record.branch)
    question, examples = make_question(dict.fromkeys(MAPPING, ""), TOPIC), data.examples.test
    with LlamaCppEngine(folder / "fine_tuned_model.gguf", context=2048, threads=SETTINGS["threads"]) as engine:
        scoring = LabelScoring("code", record.branch)
        judged = [each.probabilities for each in rate_examples(engine, examples, data.scale, scoring=scoring)]
        decided = [engine.decide(example.record, question).probabilities for example in examples]
    tempered_NK = np.array(judged) ** (1 / record.code_branch.temperature)
    tempered_NK /= tempered_NK.sum(axis=1, keepdims=True)
    return np.abs(tempered_NK - np.array(decided)).max(axis=1)


def test_the_decisions_are_the_judged_probabilities(tmp_path: Path) -> None:
    try:
        found = differences(tune(tmp_path))
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert len(found) == 30 and found.max() < 1e-3
