"""Calibration, conformal sets and novelty: each against rows whose truth is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.errors import UsageError
from expertune.predict.score import Rated
from expertune.predict.uncertainty import Uncertainty, checked_uncertainty, fit_uncertainty
from expertune.ratings.schema import Example
from expertune.record import RunRecord, read_record
from expertune.stats.calibration import FEWEST_ROWS, SPREAD, fit_calibration
from expertune.stats.conformal import fewest_rows, fit_conformal
from expertune.stats.ood import fit_novelty_detector
from rate.stub import SCALE
from records import plain_record, run_record


def rows(count: int, *, seed: int, temperature: float = 1.0, bias: tuple[float, ...] = (0, 0, 0)) -> Any:
    """Said probabilities and true labels, drawn so that softmax(log said / temperature + bias) is the true chance."""
    draw = np.random.default_rng(seed)
    said_NK = draw.dirichlet((0.8, 0.8, 0.8), size=count)
    score_NK = np.log(np.maximum(said_NK, 1e-12)) / temperature + np.asarray(bias)
    true_NK = np.exp(score_NK - score_NK.max(axis=1, keepdims=True))
    true_NK /= true_NK.sum(axis=1, keepdims=True)
    truth = (draw.random((count, 1)) > true_NK.cumsum(axis=1)[:, :2]).sum(axis=1).tolist()
    return [tuple(map(float, share_K)) for share_K in said_NK], truth


def log_loss(shares: Any, truth: list[int]) -> float:
    return -sum(math.log(max(share[true], 1e-9)) for share, true in zip(shares, truth, strict=True)) / len(truth)


def test_a_known_miscalibration_is_found_and_helps_on_new_rows() -> None:
    said, truth = rows(1500, seed=1, temperature=2.0, bias=(0.6, -0.3, -0.3))
    found = fit_calibration(said, truth)
    assert found is not None and found.method == "temperature and bias"
    assert found.temperature == pytest.approx(2.0, rel=0.15)
    assert found.bias[0] - found.bias[1] == pytest.approx(0.9, abs=0.25)
    fresh, fresh_truth = rows(3000, seed=2, temperature=2.0, bias=(0.6, -0.3, -0.3))
    assert log_loss([found.apply(each) for each in fresh], fresh_truth) < log_loss(fresh, fresh_truth) - 0.05


def test_fewer_rows_change_less() -> None:
    said, truth = rows(2000, seed=3, temperature=4.0)
    ways = {count: fit_calibration(said[:count], truth[:count]) for count in (20, 2000)}
    few, many = ways[20], ways[2000]
    assert few is not None and many is not None
    assert abs(math.log(few.temperature)) < abs(math.log(many.temperature)) and many.temperature == pytest.approx(
        4, rel=0.15
    )
    # the prior of 20 rows is worth more than what they say: one standard deviation of it at most
    assert abs(math.log(few.temperature)) < 3 * SPREAD


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(FEWEST_ROWS, 80), st.floats(0.3, 3))
def test_dev_rows_never_get_worse_by_cross_validation(seed: int, count: int, temperature: float) -> None:
    said, truth = rows(count, seed=seed, temperature=temperature)
    found = fit_calibration(said, truth)
    assert found is not None and found.log_loss_calibrated <= found.log_loss
    assert found.log_loss == pytest.approx(log_loss(said, truth), abs=1e-6)
    for share in said[:5]:
        assert sum(found.apply(share)) == pytest.approx(1) and min(found.apply(share)) >= 0
    if found.method == "none":
        assert not found.changes and found.apply(said[0]) == said[0] and "no calibration" in found.note


def test_calibrated_rows_stay_as_they_are_and_few_rows_are_left_alone() -> None:
    said, truth = rows(FEWEST_ROWS - 1, seed=4, temperature=3)
    few = fit_calibration(said, truth)
    assert few is not None and not few.changes and "too few" in few.note
    assert fit_calibration([], []) is None
    said, truth = rows(1000, seed=5)
    right = fit_calibration(said, truth)
    assert right is not None and right.temperature == pytest.approx(1, abs=0.12)
    assert max(map(abs, right.bias)) < 0.15


def test_a_label_without_rows_gets_no_bias() -> None:
    said, truth = rows(400, seed=6, temperature=2)
    kept = [i for i, true in enumerate(truth) if true != 2]
    found = fit_calibration([said[i] for i in kept], [truth[i] for i in kept])
    assert found is not None and found.bias[2] == 0


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_conformal_coverage_is_the_nominal_one_for_each_label(coverage: float) -> None:
    """Known truth, miscalibrated probabilities; 60 draws of dev rows, each held to 2,000 and more new rows a label."""
    world: dict[str, Any] = {"temperature": 1.7, "bias": (0.5, 0, -0.4)}
    fresh, truth = rows(12_000, seed=1000, **world)
    share_NK, true_N = np.asarray(fresh), np.asarray(truth)
    assert np.bincount(true_N).min() >= 2000
    draws = [fit_conformal(*rows(600, seed=seed, **world), SCALE.labels, coverage=coverage) for seed in range(60)]
    for k in range(3):
        own_N = share_NK[true_N == k, k]
        held = [(own_N >= found.thresholds[k]).mean() for found in draws]
        assert np.mean(held) == pytest.approx(coverage, abs=0.02)
        assert all(found.exact[k] for found in draws)
    # a row's set is what the thresholds say
    sets = [draws[0].labels_for(share) for share in fresh[:500]]
    assert np.mean([SCALE.labels[true] in each for each, true in zip(sets, truth, strict=False)]) > coverage - 0.06


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.floats(0.01, 1), min_size=3, max_size=3)), min_size=1, max_size=60
    ),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
)
def test_conformal_thresholds_cover_the_dev_rows_that_made_them(drawn: Any, coverage: float) -> None:
    truth = [true for true, _ in drawn]
    said = [tuple(each / sum(share) for each in share) for _, share in drawn]
    found = fit_conformal(said, truth, SCALE.labels, coverage=coverage)
    for k in range(3):
        own = [share[k] for share, true in zip(said, truth, strict=True) if true == k]
        assert found.rows[k] == len(own) and found.exact[k] == (len(own) >= fewest_rows(coverage))
        if found.exact[k]:
            assert sum(share >= found.thresholds[k] for share in own) >= coverage * len(own)
        else:
            assert found.thresholds[k] == pytest.approx(1 - coverage)
    assert len(found.notes()) == found.exact.count(False)


def test_how_many_rows_a_label_needs() -> None:
    assert [fewest_rows(coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    assert 'label": 3 dev' not in " ".join(fit_conformal([(0.9, 0.1)] * 9, [0] * 9, ("a", "b")).notes())
    assert (
        '"b": 0 validation records are too few for a coverage of 90% (9 are needed)'
        in fit_conformal([(0.9, 0.1)] * 9, [0] * 9, ("a", "b")).notes()[0]
    )


TEMPLATE = "Rate this visit for respiratory infections.\nComplaint: {}\nAge: {}"
WORDS = ["cough", "fever", "sore throat", "runny nose", "short of breath", "wheezing", "chills", "headache", "no pain"]


def notes(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [TEMPLATE.format(", ".join(draw.sample(WORDS, 3)), draw.randint(1, 99)) for _ in range(count)]


def test_novelty_tells_another_world_from_the_same_one() -> None:
    found = fit_novelty_detector(notes(300, 1), notes(100, 2))
    assert found is not None
    same = [found.is_novel(text) for text in notes(1000, 3)]
    assert sum(same) <= 80  # nominally 2 %
    for odd in ("snake bite on left hand", "расстройство желудка", "motor vehicle collision", "zzzzzzzz qqqqqqq"):
        assert found.is_novel(TEMPLATE.format(odd, 40)), odd
    assert found.share(notes(1, 1)[0]) == 0.0


def test_novelty_keeps_no_text_and_little_of_anything() -> None:
    found = fit_novelty_detector([f"{text} {i * 7919}" for i, text in enumerate(notes(5000, 1))], notes(100, 2))
    assert found is not None
    stored = json.dumps(asdict(Uncertainty(novelty=found)))
    assert len(stored) < 100_000
    assert not any(word in stored for word in ("cough", "fever", "throat", "Complaint"))
    assert fit_novelty_detector([], ["a"]) is None and fit_novelty_detector(["a"], []) is None


@given(st.text(max_size=60))
def test_novelty_takes_any_text(text: str) -> None:
    found = fit_novelty_detector(["cough and fever", text], [text])
    assert found is not None and 0 <= found.share(text) <= 1 and not found.is_novel(text)


def trust() -> Uncertainty:
    said, truth = rows(60, seed=9, temperature=2)
    rated = [Rated(str(i), "", 0, share) for i, share in enumerate(said)]
    values = [SCALE.values[true] for true in truth]
    return fit_uncertainty(rated, examples(notes(50, 1), [1] * 50), examples(notes(60, 2), values), SCALE)


def examples(prompts: Sequence[str], values: Sequence[int]) -> list[Example]:
    return [
        Example(str(at), "", ({"role": "user", "content": prompt},), "", "", value)
        for at, (prompt, value) in enumerate(zip(prompts, values, strict=True))
    ]


def test_what_is_kept_in_the_metadata_comes_back_the_same() -> None:
    made = trust()
    assert made.calibration is not None and made.conformal is not None and made.novelty is not None
    kept = json.loads(json.dumps(run_record(rating=asdict(made)).to_dict(), allow_nan=False))
    again = checked_uncertainty(RunRecord.model_validate(kept).rating, SCALE)
    assert again == made
    assert checked_uncertainty(None, SCALE) == Uncertainty() and len(Uncertainty().notes()) == 3


@pytest.mark.parametrize("part", ["calibration", "conformal", "novelty"])
@pytest.mark.parametrize("damage", [{"unknown": 1}, 7, {"bias": [0.0]}, []])
def test_a_damaged_part_is_refused(part: str, damage: Any, tmp_path: Path) -> None:
    damaged = plain_record(rating=asdict(trust()) | {part: damage})
    (tmp_path / "fine_tuning_metadata.json").write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match=rf"damaged, or of another version \(at rating.{part}"):
        read_record(tmp_path)


def test_thresholds_of_other_labels_are_refused() -> None:
    made = trust()
    assert made.conformal is not None
    other = replace(made, conformal=replace(made.conformal, labels=("Match", "Unknown", "Does Not Match")))
    with pytest.raises(UsageError, match="does not fit the labels"):
        checked_uncertainty(other, SCALE)
