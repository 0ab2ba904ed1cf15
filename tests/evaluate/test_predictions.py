"""test_predictions.csv: every figure can be computed again from it, and Excel, R, SAS, SPSS and Stata can read it."""

from __future__ import annotations

import os
import random
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from evaluate.recomputed import assert_figures_are_those_of, read_rows
from evaluate.samples import rated, truth
from expertune.config import Config
from expertune.evaluate.judgement import judge
from expertune.evaluate.label_errors import UnseenRatings
from expertune.evaluate.predictions import prediction_rows
from expertune.outputs import variable_names, write_table
from expertune.predict.score import Pass, Rated
from expertune.ratings.dataset import load_dataset
from expertune.ratings.scale import RatingScale, make_scale
from expertune.ratings.schema import Rating
from expertune.record import EvaluationRecord
from expertune.stats.conformal import Conformal

VISITS = Path(__file__).resolve().parents[2] / "examples/formatted_dataset.csv"
CONFIG = Config(bootstrap_resamples=100)


def guess(rows: list[Rating], scale: RatingScale, *, right: float, seed: int) -> Pass:
    """Probabilities that are right this often, no two the same."""
    draw = random.Random(seed)
    found = []
    for row in rows:
        scores = [draw.random() + 1.5 * (value == row.value and draw.random() < right) for value in scale.values]
        found.append(Rated.of(row.id, [each / sum(scores) for each in scores], scale))
    return Pass(tuple(found), 1.0, float(len(rows)), 0)


def test_every_figure_comes_from_the_file_alone(tmp_path: Path) -> None:
    dataset = load_dataset(VISITS, None, "respiratory infections", CONFIG)
    scale, split = dataset.scale, dataset.split
    dev, test = list(split.dev), list(split.test)
    passes = {
        "tuned": guess(test, scale, right=0.7, seed=2),
        "few-shot": guess(test[:30], scale, right=0.5, seed=4),
        "decision model nimble": guess(test, scale, right=0.3, seed=5),
    }
    judgement = judge(
        "tuned",
        {"tuned": guess(dev, scale, right=0.7, seed=1).rated},
        passes,
        guess(test[::2], scale, right=0.2, seed=3),  # a sample
        UnseenRatings("train", (), split.train, {}),
        dataset,
        CONFIG,
    )
    thresholds = judgement.uncertainty.conformal
    write_table(tmp_path / "out.csv", prediction_rows(split.test, judgement.raters, thresholds, scale, split.groups))
    rows = read_rows(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [row.id for row in test]
    assert [row["base_label"] != "" for row in rows[:4]] == [True, False, True, False]
    assert rows[1]["base_p_match"] == "" and "decision_mod_p_does_not_match" in rows[0]
    assert_figures_are_those_of(tmp_path / "out.csv", EvaluationRecord.of(judgement, "", None).to_dict())
    text = (tmp_path / "out.csv").read_text("utf-8")
    assert not any(row.prompt[:40] in text for row in test)


def test_a_file_without_thresholds_has_no_set_and_one_of_no_label_an_empty_cell() -> None:
    scale = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
    expert, raters = truth([0, 1]), {"tuned": rated([0, 0])}
    assert "conformal_set" not in prediction_rows(expert, raters, None, scale, {})[0]
    thresholds = Conformal(0.9, scale.labels, (0.9, 0.05, 0.05), (9, 9, 9), (True, True, True))
    found = prediction_rows(expert, raters, thresholds, scale, {"r0": "one patient", "r1": "one patient"})
    assert [row["conformal_set"] for row in found] == ["Does Not Match | Unknown"] * 2
    assert [row["group"] for row in found] == [1, 1]
    none = replace(thresholds, thresholds=(0.9, 0.9, 0.9))
    assert prediction_rows(expert, raters, none, scale, {})[0]["conformal_set"] == ""


def test_names_are_those_that_statistics_programs_take() -> None:
    labels = (
        "Übereinstimmung",
        "Да",
        "Нет",
        "+",
        "++",
        "match, probably after all",
        "match, probably after no",
        "MATCH",
    )
    scale = make_scale({label: value for value, label in enumerate(labels, start=-1)})
    names = ("decision model nimble.gguf", "decision model clever.gguf", "TF-IDF set", "TF-IDF")
    raters = {name: rated([0, 1], scale) for name in names}
    (first, _) = prediction_rows(truth([0, 1], scale), raters, None, scale, {})
    assert len(first) == 3 + len(names) * (1 + len(labels))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) for name in first)
    assert [name for name in first if name.startswith("tf_idf_p")] == [
        "tf_idf_p_ubereinstimmung", "tf_idf_p_value_0", "tf_idf_p_value_1", "tf_idf_p_value_2", "tf_idf_p_value_3",
        "tf_idf_p_match_probably_af", "tf_idf_p_match_probably_2", "tf_idf_p_match",
    ]  # fmt: skip
    assert variable_names(["Maß", "?"], 17, ["value_1", "value_minus_1"]) == ["mass", "value_minus_1"]
    assert {"decision_mod_label", "decision_m_2_label", "tf_idf_set_label", "tf_idf_label"} <= set(first)


def test_a_table_is_private_and_safe_in_excel(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    ids = ["=1+1", "-5", "@x", "+49 30", "0012", 'a "b", c', "line\nend", "broken \ud800", "\0"]
    write_table(path, [{"id": each, "share": 0.1 + 0.2, "none": None} for each in ids])
    content = path.read_bytes()
    assert content.startswith(b"id,share,none\r\n'=1+1,0.30000000000000004,\r\n-5,")
    assert [row["id"] for row in read_rows(path)] == [
        "'=1+1", "-5", "'@x", "'+49 30", "0012", 'a "b", c', "line\nend", "broken \\ud800", "\\x00"
    ]  # fmt: skip
    write_table(path, [{"id": "1", "expert": "Übereinstimmung"}])
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,expert\r\n")
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("letters", [12, 17])
def test_many_texts_with_one_beginning_get_a_name_each(letters: int) -> None:
    found = variable_names([f"the same beginning of all of these {at}" for at in range(120)], letters)
    assert len(set(found)) == 120 and max(map(len, found)) <= letters
