"""A model set with several members: one rates, and the others may disagree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook, load_workbook

import tiny
from expertune.cli.main import main
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import UsageError
from expertune.modelset.build import BuildInputs, build, recipes
from expertune.modelset.config import ModelSetConfig, read, write
from expertune.modelset.records import MemberCalibration, Rule, TfidfMember
from expertune.modelset.word_pool import WordScorer, fit_words, pool_words
from expertune.predict.score import Prediction, score_labels
from expertune.rate.artifact import load_product
from expertune.rate.columns import share_columns
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_file
from expertune.rate.serve import serve
from expertune.ratings.schema import Rating, Split
from rate.stub import MAPPING, SCALE, TOPIC, Counted, read_csv, visits, write_csv

WORDS = {"Match": "cough fever wheeze", "Does Not Match": "fall ankle cut", "Unknown": "unwell sent home"}
ROWS = [
    Rating(str(i), i, f"visit {i}: {WORDS[label]} {i % 5}", value, label)
    for i, (label, value) in enumerate([*MAPPING.items()] * 20)
]


def model_set(folder: Path, model: Path, rater: str) -> Path:
    """A set of one language model and TF-IDF in which `rater` rates."""
    split = Split(tuple(ROWS), (), (), {}, 1)
    inputs = BuildInputs(str(model), split, SCALE, TOPIC, created_at="2026-01-01T00:00:00Z", seed=1)
    config = build(inputs, recipes(3, redact=True)[0])
    words = fit_words(ROWS, SCALE, {}, seed=1)
    assert words is not None
    calibration = MemberCalibration(temperature=2.0, bias=(0.1, 0.0, -0.1))
    tfidf = {**dict(pool_words(words, SCALE)[0]), "weight": float(rater == "TF-IDF"), "dev_agreement": None}
    member = config.models[0].model_copy(update={"weight": float(rater != "TF-IDF"), "calibration": calibration})
    folder.mkdir()
    changed = config.changed(
        system_prompt="Rate.",
        models=(member,),
        tfidf=TfidfMember.model_validate(tfidf),
        rule=Rule(kind="single", members=(rater,), reason="for this test"),
    )
    write(folder / "model_set_config.json", changed)
    return folder


def by_words(config: ModelSetConfig, rows: list[dict[str, str]]) -> list[Prediction]:
    assert config.tfidf is not None
    return WordScorer(config.tfidf, SCALE.labels).predict([row["Prompt"] for row in rows])


def rate(folder: Path, rows: list[dict[str, str]], name: str = "rated.csv", **how: Any) -> list[dict[str, str]]:
    product = load_product(folder)
    source, output = write_csv(folder / "new.csv", rows), folder / name
    with serve(product, "llama.cpp", threads=1, **how) as served:
        rate_file(source, output, product, served, Counted().stage)
    return read_csv(output)


def shares(row: Mapping[str, str]) -> list[float]:
    return [float(row[column]) for column in share_columns(SCALE).values()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "tiny.gguf", layers=1, context=1024)


@pytest.mark.slow
def test_words_alone_need_no_model(tmp_path: Path) -> None:
    """The base's file is not even there."""
    folder = model_set(tmp_path / "set", tmp_path / "absent.gguf", "TF-IDF")
    rows = visits(5)
    config = read(folder / "model_set_config.json")
    rated = rate(folder, rows)
    for row, other in zip(rated, by_words(config, rows), strict=True):
        assert shares(row) == pytest.approx(other.probabilities, abs=1e-5)
        assert row["Predicted_Label"] == SCALE.labels[other.label]
        assert row["Models_Disagree"] == "0"
    product = load_product(folder)
    with serve(product, "llama.cpp") as served, pytest.raises(UsageError, match="TF-IDF alone; leave out --rationale"):
        rate_file(folder / "new.csv", folder / "other.csv", product, served, Counted().stage, rationale=True)


def test_the_tally_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_set(tmp_path / "set", tmp_path / "absent.gguf", "TF-IDF")
    write_csv(tmp_path / "new.csv", visits(5))
    with pytest.raises(SystemExit) as end:
        main(["rate", str(tmp_path / "new.csv"), "--with", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not end.value.code and found["output"] == str(tmp_path / "new_rated.csv")
    assert (found["rows"], found["computed"], found["failed"]) == (5, 5, 0)
    assert found["review"] == sum(bool(row["Review_Reasons"]) for row in read_csv(tmp_path / "new_rated.csv"))
    assert found["seconds"] > 0 and f"{tmp_path / 'new_rated_codebook.csv'}: what the columns mean" in found["notes"]


def test_a_sheet_is_rated_into_a_workbook_and_its_codebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_set(tmp_path / "set", tmp_path / "absent.gguf", "TF-IDF")
    book = Workbook()
    sheet: Any = book.create_sheet("Visits")
    for row in (["Row_ID", "Prompt"], *([row["Row_ID"], row["Prompt"]] for row in visits(5))):
        sheet.append(row)
    book.save(tmp_path / "new.xlsx")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["rate", str(tmp_path / "new.xlsx"), "--with", str(folder), *arguments])
        return int(end.value.code or 0)

    assert run() == 2 and 'sheet "Sheet" is empty' in capsys.readouterr().err
    assert run("--sheet", "Visits") == 0
    out = capsys.readouterr().out
    assert 'sheet "Visits" is read, not Sheet' in out and "new_rated_codebook.csv: what the columns mean" in out
    (sheet,) = load_workbook(tmp_path / "new_rated.xlsx").worksheets
    head, *rows = sheet.iter_rows(values_only=True)
    assert [row[0] for row in rows] == [f"r{i}" for i in range(5)]
    assert [row["name"] for row in read_csv(tmp_path / "new_rated_codebook.csv")] == list(head)
    assert run("--sheet", "Visits", "--output", str(tmp_path / "a.csv"), "--excel") == 0
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert (tmp_path / "a_codebook.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert run("--sheet", "Visits", "--output", str(tmp_path / "a.jsonl"), "--excel") == 2


@pytest.mark.slow
def test_the_model_rates_and_tfidf_is_a_second_opinion(tmp_path: Path, model: Path) -> None:
    folder = model_set(tmp_path / "set", model, str(model))
    config, rows = read(folder / "model_set_config.json"), visits(8)
    rated = rate(folder, rows)
    differ = []
    with LlamaCppEngine(model, context=config.decoding.num_ctx, threads=1) as engine:
        for row, out, words in zip(rows, rated, by_words(config, rows), strict=True):
            by_model = score_labels(engine, engine.render(config.messages(row["Prompt"])), SCALE).probabilities
            assert shares(out) == pytest.approx(by_model, abs=1e-4)
            differ.append(by_model.index(max(by_model)) != words.label)
    assert [row["Models_Disagree"] == "1" for row in rated] == differ and any(differ)
    assert ["models disagree" in row["Review_Reasons"] for row in rated] == differ
    assert rate(folder, rows) == rated  # from the journal's own copy, disagreement and all
    make_queue(folder / "rated.csv", folder / "review.csv", sample=0)
    assert len(read_csv(folder / "review.csv")) == sum(bool(row["Review_Reasons"]) for row in rated)


@pytest.mark.slow
def test_words_alone_ask_the_model_only_for_its_vote(tmp_path: Path, model: Path) -> None:
    folder = model_set(tmp_path / "set", model, "TF-IDF")
    rows = visits(6)
    alone, asked = rate(folder, rows, "alone.csv"), rate(folder, rows, "asked.csv", votes=True)
    assert [shares(row) for row in alone] == [shares(row) for row in asked]
    assert {row["Models_Disagree"] for row in alone} == {"0"}
    assert "1" in {row["Models_Disagree"] for row in asked}
