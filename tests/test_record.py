"""The records of a run: what is written comes back, what 0.1.0 wrote loads, and damage is one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import expertune
from expertune.cli.output import print_summary
from expertune.errors import UsageError
from expertune.record import VERSION, RunRecord, read_record
from expertune.register.preflight import gate_failures
from expertune.report_record import ReportRecord, schemas
from expertune.train.events import StepEvent
from records import EXPORT, plain_record, run_record

OLD = Path(__file__).parent / "data/runs/0.1.0"  # of a run on the example visits


def test_a_folder_of_0_1_0_loads() -> None:
    kept, found = json.loads((OLD / "fine_tuning_metadata.json").read_text()), read_record(OLD)
    assert "version" not in kept and found.version == 1
    assert (found.verdict, found.timings, found.split.test) == (kept["verdict"], kept["timings"], 45)
    first = kept["evaluation"]["evaluations"][0]
    assert found.evaluation.evaluations[0].macro_f1.value == first["macro_f1"]["value"]
    assert found.evaluation.differences[0].includes_zero is False
    assert found.export and found.export.types[0].kept == kept["export"]["types"][0]["kept"]
    assert found.training and found.training.precision == "float32"
    assert found.rating and found.rating.conformal and found.rating.conformal.labels == tuple(first["labels"])
    config = found.config  # the settings had other names
    assert (config.max_grad_norm, config.weight_cache, config.compute_dtype) == (1.0, "dequantized", "fp32")
    assert gate_failures(found) == []


@pytest.mark.parametrize(
    ("speeds", "line"),
    [
        ({}, "It rates 9.0 records/s (its base 12.0)."),  # of a run before both were kept
        ({"served_rows_per_second": 9.0}, "It rates 9.0 records/s (its base 12.0)."),  # one engine rated all
        (
            {"served_rows_per_second": 3.0},
            "It rates 3.0 records/s in llama.cpp, as Ollama serves it, and 9.0 records/s in Expertune's own decoder "
            "(its base 12.0).",
        ),
    ],
)
def test_the_summary_names_the_engine_of_each_speed(
    speeds: dict[str, float], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = json.loads((OLD / "fine_tuning_metadata.json").read_text())["training"]
    export = EXPORT | {"rows_per_second": 9.0, "base_rows_per_second": 12.0} | speeds
    print_summary(run_record(export=export, training=training), tmp_path)
    assert line in capsys.readouterr().out.splitlines()


def test_a_run_with_the_readout_of_before_loads() -> None:
    info = {"output_file": "readout.json", "depth": 20, "features": "both", "out_of_fold": {}, "tfidf_weight": 1.0}
    found = run_record(readout_info=info).readout_info
    assert found is not None and (found.depths, found.weights, found.label_weights) == ((), {}, {})


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    record = read_record(OLD).model_copy(update={"version": VERSION})
    record.write(tmp_path)
    again = read_record(tmp_path)
    assert again == record and again.to_dict() == record.to_dict()
    assert json.loads((tmp_path / "fine_tuning_metadata.json").read_text())["version"] == VERSION


def test_figures_that_are_not_finite_are_null() -> None:
    record = run_record(timings={"read": math.nan, "train": math.inf, "judge": 1.5})
    assert record.to_dict()["timings"] == {"read": None, "train": None, "judge": 1.5}
    history = [StepEvent(1, 2, 0.5, math.nan, 1e-3, 1.0, 9, 0.1)]
    (shown,) = ReportRecord.of_run(record, history).to_dict()["curves"]["steps"]
    assert shown["loss"] is None and shown["tokens"] == 9


def test_parts_that_say_what_was_made_are_absent_where_it_was_not() -> None:
    assert "model_set_info" not in run_record().to_dict() and "registration" not in run_record().to_dict()
    assert run_record().to_dict()["fallback_reason"] is None


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"split": {"test": "many"}}, "split.test"),
        ({"provenance": None}, "provenance"),
        ({"evaluation": {"verdict": {"base": "splendid"}}}, "evaluation.verdict"),
    ],
)
def test_damage_is_one_line_that_names_the_place(tmp_path: Path, changes: dict, place: str) -> None:
    (tmp_path / "fine_tuning_metadata.json").write_text(json.dumps(plain_record(**changes)))
    with pytest.raises(UsageError, match=rf"damaged, or of another version \(at {place}") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_published_schemas_are_those_in_the_code() -> None:
    """Where they are not: `python -m expertune.report_record` writes them anew."""
    folder = Path(expertune.__file__).parent
    for name, schema in schemas().items():
        assert json.loads((folder / name).read_text(encoding="utf-8")) == schema
    assert set(RunRecord.model_fields) <= set(schemas()["run_record.schema.json"]["properties"])
