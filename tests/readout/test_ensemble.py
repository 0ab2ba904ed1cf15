"""The ensemble of tuned model and readout: its weight, when it is recommended, and its scorer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from expertune.config import make_config
from expertune.modelset.choose import with_ensemble
from expertune.predict.score import Pass, Prediction, Rated
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.readout.ensemble import EnsembleScorer, fit_ensemble, fused_pass
from expertune.record import ApproachChoice

ROWS = Path(__file__).resolve().parents[2] / "examples/formatted_dataset.csv"
CONFIG = make_config({"bootstrap_resamples": 200})
TUNED = ApproachChoice(approach="tune", reason="the tuned one so far")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    mapping = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
    return load_dataset(pd.read_csv(ROWS).head(160), mapping, "respiratory infections", CONFIG)


def passed(dataset: Dataset, sure: Sequence[float]) -> Pass:
    """Validation records, the probability of whose right label is given; the next label has nearly all the rest."""
    rated = []
    for row, right in zip(dataset.split.dev, sure, strict=True):
        at = dataset.scale.values.index(row.value)
        shares = [0.01, 0.01, 0.01]
        shares[at], shares[(at + 1) % 3] = right, 0.99 - right
        rated.append(Rated.of(row.id, shares, dataset.scale))
    return Pass(tuple(rated), 2.0, len(rated) / 2, 100)


def alternating(dataset: Dataset, *values: float) -> list[float]:
    return [values[at % len(values)] for at in range(len(dataset.split.dev))]


def test_members_that_err_on_different_records_weigh_alike(dataset: Dataset) -> None:
    one, other = (passed(dataset, alternating(dataset, *each)) for each in ((0.95, 0.4), (0.4, 0.95)))
    found = fit_ensemble(one, other, dataset.split.dev, dataset.scale)
    assert found.tuned_weight == 0.5 and found.losses[0.5] == min(found.losses.values())
    labels = {row.id: row.value for row in dataset.split.dev}
    assert all(each.value == labels[each.id] for each in found.dev.rated)  # either was wrong on half of the records
    assert found.dev.seconds == 4.0 and sum(found.dev.rated[0].probabilities) == pytest.approx(1)


def test_a_member_that_knows_more_weighs_more(dataset: Dataset) -> None:
    good, poor = passed(dataset, alternating(dataset, 0.95, 0.9)), passed(dataset, alternating(dataset, 0.05, 0.6))
    truth, scale = dataset.split.dev, dataset.scale
    assert fit_ensemble(good, poor, truth, scale).tuned_weight == 0.75
    assert fit_ensemble(poor, good, truth, scale).tuned_weight == 0.25


def test_the_fused_log_probabilities_are_the_weighted_mean(dataset: Dataset) -> None:
    one, other = passed(dataset, alternating(dataset, 0.9, 0.3)), passed(dataset, alternating(dataset, 0.6))
    for first, second, both in zip(
        one.rated, other.rated, fused_pass(one, other, 0.25, dataset.scale).rated, strict=True
    ):
        weights = [p**0.25 * q**0.75 for p, q in zip(first.probabilities, second.probabilities, strict=True)]
        assert both.probabilities == pytest.approx([each / math.fsum(weights) for each in weights])


def test_it_is_recommended_where_its_log_loss_is_lower(dataset: Dataset) -> None:
    one, other = (passed(dataset, alternating(dataset, *each)) for each in ((0.95, 0.4), (0.4, 0.95)))

    def choose(tuned: Pass, readout: Pass, so_far: ApproachChoice) -> ApproachChoice:
        found = fit_ensemble(tuned, readout, dataset.split.dev, dataset.scale)
        members = {"tune": tuned.rated, "readout": readout.rated}
        return with_ensemble(so_far, members, found.dev, dataset, CONFIG)

    better = choose(one, other, TUNED)
    assert better.approach == "ensemble" and "are better than the tuned" in better.reason
    assert better.dev and set(better.dev.log_loss) == {"ensemble", "tuned"}
    readout = ApproachChoice(approach="readout", reason="the readout so far")
    assert choose(one, other, readout).reason.startswith("tuned model and readout together are better than the readout")
    good, poor = passed(dataset, alternating(dataset, 0.98)), passed(dataset, alternating(dataset, 0.01))
    kept = choose(good, poor, TUNED)
    assert kept.approach == "tune" and "the ensemble's log-loss is not lower" in kept.reason


class Member:
    """Gives every record the same probabilities."""

    name, slots, explains = "member", 3, True

    def __init__(self, *shares: float) -> None:
        self._shares = shares

    def render(self, record: str) -> str:
        return f"? {record}"

    def score(self, record: str) -> Prediction:
        return Prediction(self._shares, exact=False)

    def explain(self, record: str, label: str, *, max_tokens: int) -> str:
        return f"{label}: {record}"[:max_tokens]

    def notes(self) -> tuple[str, ...]:
        return ("slow",)

    def describe(self) -> Mapping[str, object]:
        return {"engine": "member"}


def test_the_scorer_asks_both_and_the_tuned_model_explains() -> None:
    scorer = EnsembleScorer(Member(0.8, 0.2), Member(0.2, 0.8), 0.5)
    assert scorer.score("cough").probabilities == pytest.approx((0.5, 0.5)) and not scorer.score("cough").exact
    assert scorer.explain("cough", "Match", max_tokens=9) == "Match: co" and scorer.notes() == ("slow",)
    assert scorer.describe()["tuned"] == {"engine": "member"}
