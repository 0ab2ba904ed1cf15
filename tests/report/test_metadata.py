"""The metadata of a run as a notebook shows them, and as a table."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.evaluate.compare import evaluate
from expertune.report.metadata import RunMetadata

HOSTILE = "<script>alert('x')</script>"
EXPERT = [0, 1, 2, 0, 1] * 8


def content(**more: Any) -> dict[str, Any]:
    """The parts of a run's metadata that are shown: a rater with intervals, and one that is always right."""
    expert, config = truth(EXPERT, prompts=["SECRET cough"] * 40), Config(bootstrap_resamples=100)
    raters = {HOSTILE: [0, 1, 1, 0, 0] * 8, "base": EXPERT}
    figures = [asdict(evaluate(name, expert, rated(labels), SCALE, {}, config)) for name, labels in raters.items()]
    return {
        "verdict": f"No clear difference {HOSTILE}.",
        "evaluation": {"verdict": {"line": ""}, "evaluations": figures},
        "provenance": {"hashes": {"input_rows": "a", "readout.json": "b", "fine_tuned_model.gguf": "c"}},
        **more,
    }


@pytest.fixture(scope="module")
def metadata() -> RunMetadata:
    return RunMetadata(content())


def test_it_is_the_dict_that_the_file_has(metadata: RunMetadata) -> None:
    assert isinstance(metadata, dict)
    assert metadata == dict(metadata) == RunMetadata(dict(metadata))
    assert json.dumps(metadata) == json.dumps(dict(metadata))


def test_the_table_has_a_row_for_each_rater_with_its_intervals(metadata: RunMetadata) -> None:
    frame = metadata.to_frame()
    assert list(frame["rater"]) == [HOSTILE, "base"]
    assert list(frame["records"]) == [40, 40]
    first, second = metadata["evaluation"]["evaluations"]
    for figure in ("macro_f1", "kappa", "accuracy", "log_loss"):
        assert frame[figure][0] == first[figure]["value"]
        assert frame[f"{figure}_low"][0] == first[figure]["interval"]["low"]
        assert frame[f"{figure}_high"][0] == first[figure]["interval"]["high"]
    assert second["macro_f1"]["interval"] is None  # it is always right
    assert frame["macro_f1"][1] == 1 and pd.isna(frame["macro_f1_low"][1])


def test_a_figure_that_is_undefined_is_missing_in_the_table() -> None:
    metadata = RunMetadata(content())
    metadata["evaluation"]["evaluations"][0]["kappa"] = {"value": None, "interval": None, "n": 0}
    assert pd.isna(metadata.to_frame()["kappa"][0])
    assert "<td>–</td>" in metadata._repr_html_()


def test_a_run_without_an_evaluation_has_an_empty_table_with_the_same_columns(metadata: RunMetadata) -> None:
    empty = RunMetadata(content(evaluation={"verdict": {"line": ""}, "evaluations": []}))
    assert len(empty.to_frame()) == 0
    assert list(empty.to_frame().columns) == list(metadata.to_frame().columns)
    assert "<table>" not in empty._repr_html_()


def test_the_page_has_verdict_raters_and_files_and_is_escaped(metadata: RunMetadata) -> None:
    page = metadata._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;alert(&#x27;x&#x27;)") == 2
    assert page.count("<tr>") == 3
    accuracy = metadata["evaluation"]["evaluations"][0]["accuracy"]
    low, high = accuracy["interval"]["low"], accuracy["interval"]["high"]
    assert f"<td>{accuracy['value']:.3f} [{low:.3f} to {high:.3f}]</td>" in page
    assert re.findall("<code>([^<]+)</code>", page) == [
        "fine_tuned_model.gguf",
        "readout.json",
        "report.html",
        "fine_tuning_metadata.json",
    ]
    assert "Failed checks" not in page
    assert "SECRET" not in page and "SECRET" not in metadata.to_frame().to_csv()


def test_failed_checks_are_shown() -> None:
    page = RunMetadata(content(failed_checks=["worse than the base & more"]))._repr_html_()
    assert "<p>Failed checks:</p><ul><li>worse than the base &amp; more</li></ul>" in page
