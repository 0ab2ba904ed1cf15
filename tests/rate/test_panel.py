"""A model set with several members, rated by its rule: TF-IDF alone, a model, or both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import UsageError
from expertune.modelset import build
from expertune.modelset.pool import combine
from expertune.modelset.tfidf_classifier import fit_tfidf, predict_tfidf
from expertune.predict.score import label_probabilities
from expertune.rate.artifact import load_product
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_file
from expertune.rate.serve import serve
from expertune.ratings.schema import Rating
from rate.stub import MAPPING, SCALE, TOPIC, Counted, read_csv, visits, write_csv

WORDS = {"Match": "cough fever wheeze", "Does Not Match": "fall ankle cut", "Unknown": "unwell sent home"}
ROWS = [
    Rating(str(i), i, f"visit {i}: {WORDS[label]} {i % 5}", value, label)
    for i, (label, value) in enumerate([*MAPPING.items()] * 20)
]


def model_set(folder: Path, model: Path, members: Sequence[str]) -> Path:
    """A set of one language model and TF-IDF in which `members` rate."""
    content: dict[str, Any] = build.build(
        str(model), ROWS, SCALE, TOPIC, created_at="2026-01-01T00:00:00Z", seed=1, system="Rate.", shots=0
    )
    words = fit_tfidf(ROWS, SCALE, seed=1)
    assert words is not None
    own = {"calibration": {"temperature": 2.0, "bias": [0.1, 0.0, -0.1]}, "dev_agreement": None}
    weight = 0.4 if len(members) > 1 else float(str(model) in members)
    content["tfidf"] = {**words, **own, "weight": 1 - weight}
    (each,) = content["models"]
    content["models"] = [{**each, "weight": weight}]
    kind = "ensemble" if len(members) > 1 else "single"
    content["rule"] = {"kind": kind, "members": list(members), "reason": "for this test"}
    folder.mkdir()
    build.write(folder / "model_set_config.json", content)
    return folder


def rate(folder: Path, rows: list[dict[str, str]], name: str = "rated.csv", **how: Any) -> list[dict[str, str]]:
    product = load_product(folder)
    source, output = write_csv(folder / "new.csv", rows), folder / name
    with serve(product, "llama.cpp", threads=1, **how) as served:
        rate_file(source, output, product, served, Counted().stage)
    return read_csv(output)


def shares(row: Mapping[str, str]) -> list[float]:
    return [float(row[f"P({label})"]) for label in SCALE.labels]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "tiny.gguf", layers=1, context=1024)


def test_words_alone_need_no_model(tmp_path: Path) -> None:
    """The base's file is not even there."""
    folder = model_set(tmp_path / "set", tmp_path / "absent.gguf", ["TF-IDF"])
    rows = visits(5)
    content = build.read(folder / "model_set_config.json")
    expected = predict_tfidf(content["tfidf"], [row["Prompt"] for row in rows], SCALE.labels)
    rated = rate(folder, rows)
    for row, other in zip(rated, expected, strict=True):
        assert shares(row) == pytest.approx(other, abs=1e-5)
        assert row["Models_Disagree"] == "0"
    product = load_product(folder)
    with serve(product, "llama.cpp") as served, pytest.raises(UsageError, match="TF-IDF alone; leave out --rationale"):
        rate_file(folder / "new.csv", folder / "other.csv", product, served, Counted().stage, rationale=True)


def test_an_ensemble_rates_by_its_rule_and_tells_who_differs(tmp_path: Path, model: Path) -> None:
    folder = model_set(tmp_path / "set", model, [str(model), "TF-IDF"])
    content, rows = build.read(folder / "model_set_config.json"), visits(8)
    rated = rate(folder, rows)
    differ = []
    with LlamaCppEngine(model, context=content["decoding"]["num_ctx"], threads=1) as engine:
        for row, out in zip(rows, rated, strict=True):
            prompt = engine.render(build.messages(content, row["Prompt"], str(model)))
            by_model = label_probabilities(engine, prompt, SCALE, "1")
            (by_words,) = predict_tfidf(content["tfidf"], [row["Prompt"]], SCALE.labels)
            expected = combine(content, {str(model): by_model, "TF-IDF": by_words})
            assert shares(out) == pytest.approx(expected, abs=1e-4)
            differ.append(by_model.index(max(by_model)) != by_words.index(max(by_words)))
    assert [row["Models_Disagree"] == "1" for row in rated] == differ
    assert ["models disagree" in row["Review_Reasons"] for row in rated] == differ
    assert rate(folder, rows) == rated  # from the journal's own copy, disagreement and all
    queue = make_queue(folder / "rated.csv", folder / "review.csv", sample=0)
    assert len(read_csv(folder / "review.csv")) == sum(bool(row["Review_Reasons"]) for row in rated)
    assert queue


def test_the_model_alone_with_words_as_a_second_opinion(tmp_path: Path, model: Path) -> None:
    folder = model_set(tmp_path / "set", model, [str(model)])
    content, rows = build.read(folder / "model_set_config.json"), visits(4)
    rated = rate(folder, rows)
    with LlamaCppEngine(model, context=content["decoding"]["num_ctx"], threads=1) as engine:
        for row, out in zip(rows, rated, strict=True):
            prompt = engine.render(build.messages(content, row["Prompt"]))
            assert shares(out) == pytest.approx(label_probabilities(engine, prompt, SCALE, "1"), abs=1e-4)


def test_words_alone_ask_the_model_only_for_its_vote(tmp_path: Path, model: Path) -> None:
    folder = model_set(tmp_path / "set", model, ["TF-IDF"])
    rows = visits(6)
    alone, asked = rate(folder, rows, "alone.csv"), rate(folder, rows, "asked.csv", votes=True)
    assert [shares(row) for row in alone] == [shares(row) for row in asked]
    assert {row["Models_Disagree"] for row in alone} == {"0"}
    assert "1" in {row["Models_Disagree"] for row in asked}
