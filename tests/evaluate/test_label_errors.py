"""Likely label errors: the rule by hand, who is asked about which records, and labels planted in the example visits."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluate.samples import SCALE, rated, truth
from expertune.config import Config
from expertune.evaluate.label_errors import (
    MOST,
    ExaminedPart,
    UnseenRatings,
    confident_labels,
    likely_label_errors,
)
from expertune.evaluate.predictions import label_error_rows
from expertune.modelset.word_pool import fit_words, pool_words
from expertune.ratings.dataset import load_dataset

VISITS = Path(__file__).resolve().parents[2] / "examples/formatted_dataset.csv"


def test_thresholds_by_hand() -> None:
    """Mean own probabilities: 0.43 for the first label, 0.5 for the second; none has the third, so none reaches it."""
    share_NK = np.array([[0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.55, 0.4, 0.05], [0.4, 0.6, 0.0], [0.1, 0.1, 0.8]])
    assert confident_labels(share_NK, np.array([0, 0, 1, 1, 0])).tolist() == [0, -1, 0, 1, -1]


def test_the_list_by_hand() -> None:
    expert = truth([0, 0, 0, 1, 1, 1])
    shares = {row.id: (0.8, 0.15, 0.05) for row in expert[:2]} | {row.id: (0.1, 0.85, 0.05) for row in expert[3:]}
    shares |= {"r2": (0.05, 0.9, 0.05), "r5": (0.7, 0.2, 0.1)}
    found = likely_label_errors([UnseenRatings("train", ("TF-IDF",), expert, shares)], SCALE)
    assert found.parts == (ExaminedPart("train", 6, ("TF-IDF",)),) and found.total == 2
    columns = ["id", "part", "expert", "expert_p", "raters_label", "raters_p"]
    (row,) = label_error_rows(found)  # the other one has a probability of 0.2
    assert row == dict(zip(columns, ("r2", "train", "Match", 0.05, "Does Not Match", 0.9), strict=True))


def test_informative_raters_of_all_records_are_asked_together() -> None:
    expert, tuned, words = truth([0, 1, 2]), rated([0, 1, 2], sure=0.9), rated([1, 1, 2], sure=0.5)
    raters = {
        "tuned": tuned,
        "few-shot": rated([0]),  # a sample
        "TF-IDF set": rated([1, 1, 2], sure=0.999),  # surely wrong once: worse than the labels' shares
        "base": rated([0, 0, 0]),
        "TF-IDF": words,
        "majority": rated([0, 0, 0], sure=1 / 3),
    }
    found = UnseenRatings.by_consensus("test", expert, raters, SCALE)
    assert found.raters == ("tuned", "TF-IDF")
    assert found.shares["r0"] == pytest.approx([(0.9 + 0.25) / 2, (0.05 + 0.5) / 2, (0.05 + 0.25) / 2])
    two = {"few-shot": rated([0, 1]), "tuned": tuned}
    few = UnseenRatings.by_consensus("dev", expert, two, SCALE)
    assert few.raters == ("few-shot", "tuned") and few.shares.keys() == {"r0", "r1"}  # those that the product rated
    assert likely_label_errors([few], SCALE).parts == (ExaminedPart("dev", 2, ("few-shot", "tuned")),)
    poor = UnseenRatings.by_consensus("test", expert, {"few-shot": rated([1, 2, 0])}, SCALE)
    none = UnseenRatings.by_consensus("dev", expert, {}, SCALE)
    nothing = UnseenRatings("train", ("TF-IDF",), expert, {})
    assert likely_label_errors([poor, none, nothing], SCALE) == likely_label_errors([], SCALE)


@pytest.mark.parametrize(("rows", "listed"), [(60, 3), (600, 30), (6000, MOST)])
def test_the_list_is_capped_and_the_total_kept(rows: int, listed: int) -> None:
    """A third of the records is confidently of another label."""
    expert = truth([0, 0, 1] * (rows // 3))
    shares = {each.id: each.probabilities for each in rated([0, 0, 0] * (rows // 3), sure=0.8)}
    shares |= {row.id: (0.1, 0.8, 0.1) for row in expert[:2:]}
    found = likely_label_errors([UnseenRatings("test", ("tuned",), expert, shares)], SCALE)
    assert found.total >= rows // 3 and len(found.listed) == listed
    assert all(
        one.expert_probability <= other.expert_probability
        for one, other in zip(found.listed, found.listed[1:], strict=False)
    )


def test_each_part_has_its_share_of_the_list() -> None:
    """The raters of the test records are the surer ones, so all of these have less for the expert's label."""
    expert = truth([0, 0, 1] * 200)
    parts = []
    for part, rows, sure in (("train", expert[:400], 0.8), ("test", expert[400:], 0.95)):
        rest = (1 - sure) / 2
        shares = {row.id: (sure, rest, rest) if at % 3 else (rest, sure, rest) for at, row in enumerate(rows)}
        unrated = {f"unrated {at}": (sure, rest, rest) for at in range(400)}  # they count for nothing
        parts.append(UnseenRatings(part, ("tuned",), rows, shares | unrated))
    found = likely_label_errors(parts, SCALE)
    assert [each.part for each in found.listed] == ["test"] * 10 + ["train"] * 20
    assert [each.rows for each in found.parts] == [400, 200]


@pytest.mark.slow
def test_planted_errors_are_found_far_above_chance() -> None:
    """5 % of the example visits' labels are changed. Measured, with TF-IDF alone: 12 of 25 listed; by chance 1.25."""
    data = load_dataset(VISITS, None, "respiratory infections", Config())
    draw, scale = random.Random(0), data.scale
    planted = set(draw.sample([row.id for row in data.ratings], len(data.ratings) // 20))
    rows = []
    for row in data.ratings:
        if row.id in planted:
            value = draw.choice([each for each in scale.values if each != row.value])
            row = replace(row, value=value, label=scale.label_of(value))
        rows.append(row)
    words = fit_words(rows, scale, data.split.groups, seed=0)
    assert words is not None
    shares = pool_words(words, scale)[1]
    found = likely_label_errors([UnseenRatings("train", ("TF-IDF",), rows, shares)], scale)
    hits = [each.id in planted for each in found.listed]
    assert len(planted) == len(hits) == 25 < found.total
    assert sum(hits) >= 8
