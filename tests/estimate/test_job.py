"""The plan of a whole run, from planted speeds: what each stage counts, and what a limit on the time gives up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from expertune.config import Config, with_changes
from expertune.errors import UsageError
from expertune.estimate.capability import TrainingThroughput
from expertune.estimate.job import (
    COMPARED_BUDGET,
    FIT_SECONDS,
    POOLING,
    JobPlan,
    RatingSpeed,
    Speeds,
    Work,
    plan_job,
    with_layers,
)
from expertune.model.memory import RowShape

RATE = TrainingThroughput(
    tokens_per_second=100.0,
    look_tokens_per_second=200.0,
    trunk_seconds_per_token=0.002,
    device="cpu",
    precision="fp32",
    threads=1,
    base_memory="cached",
    recomputed=False,
    block_seconds_per_token=0.0004,
    block_look_seconds_per_token=0.0002,
    load_seconds=3.0,
)
SPEEDS = Speeds(RATE, RatingSpeed(open_seconds=1.0, record_seconds=0.5, token_seconds=0.1), convert_seconds=2.0)
WORK = Work(RowShape(90, 10, 120), train=70, dev=10, test=20, blocks=30, reference_layers=20, read_seconds=7.0)
CONFIG = Config(layers=20, epochs=4, evals_per_epoch=1)


def seconds(plan: JobPlan) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in plan.stages}


def limited(minutes: float, *given: str, work: Work = WORK) -> JobPlan:
    return plan_job(work, SPEEDS, CONFIG.model_copy(update={"minutes": minutes}), frozenset(given))


def test_each_stage_counts_the_records_that_it_reads():
    found = seconds(plan_job(replace(WORK, search_records=20), SPEEDS, CONFIG))
    assert found["read"] == 7
    assert found["base"] == 20 * 0.5
    assert found["load"] == pytest.approx(3 + (POOLING * 70 + 10) * 100 * 0.002)  # large packs of training records
    assert found["train"] == 4 * 70 * 100 / 100
    assert found["validate"] == 5 * 10 * 112 / 200
    assert found["check"] == pytest.approx(1 + 10 * 0.5 + 3 + 10 * 112 * (1 / 200 + 0.002))
    assert found["model set"] == 2 + 1 + 20 * 1.5 * 0.5
    assert found["judge"] == 1 + 20 * 0.5 + 20 * 10 * 0.1 + 1 + 1 + 20 * 1.5 * 0.5
    assert "readout" not in found
    shown = plan_job(replace(WORK, search_records=30), SPEEDS, CONFIG).shown_seconds
    assert (shown["train"], list(shown)) == (280 + found["validate"], [name for name in found if name != "validate"])


def test_the_search_takes_no_longer_than_its_budget():
    config, work = CONFIG.model_copy(update={"model_set_budget_seconds": 12.0}), replace(WORK, search_records=500)
    assert seconds(plan_job(work, SPEEDS, config))["model set"] == 12
    assert seconds(plan_job(work, SPEEDS, CONFIG))["model set"] == COMPARED_BUDGET
    assert seconds(plan_job(work, SPEEDS, CONFIG, frozenset({"model_set_budget_seconds"})))["model set"] == 120


def test_our_decoder_rates_what_the_tuned_file_is_compared_with():
    """60 validation and 80 test records; llama.cpp takes 0.5 s for one, our decoder 0.1 s."""
    work, rating = replace(WORK, dev=60, test=80, search_records=20), replace(SPEEDS.rating, decoder_seconds=0.1)
    speeds, few_shot = replace(SPEEDS, rating=rating), 30 * 1.5
    one, found = (seconds(plan_job(work, each, CONFIG)) for each in (SPEEDS, speeds))
    assert (one["base"], found["base"]) == (80 * 0.5, 80 * 0.1)
    assert found["model set"] == pytest.approx(2 + 1 + 20 * 1.5 * 0.1)
    assert found["check"] == pytest.approx(one["check"] - 10 * 0.5)  # 50 validation records
    assert found["judge"] == pytest.approx(one["judge"] - few_shot * 0.4)
    by_decoder = seconds(plan_job(work, speeds, CONFIG.model_copy(update={"engine": "torch"})))
    assert by_decoder["judge"] == pytest.approx(found["judge"] - 80 * 0.4)


def test_only_a_tuned_model_needs_no_model_set():
    found = seconds(plan_job(WORK, SPEEDS, CONFIG.model_copy(update={"approach": "tune"})))
    assert "model set" not in found
    assert found["judge"] == 1 + 20 * 0.5 + 20 * 10 * 0.1 + 1


def test_a_readout_reads_all_records_up_to_its_depth():
    found = seconds(plan_job(replace(WORK, readout_blocks=15), SPEEDS, CONFIG))
    pooling = POOLING * 100 * 100 * (1 / 200 + 0.002) / 2
    assert found["readout"] == pytest.approx(3 + pooling + 10 * 100 * 0.002 + 70 * FIT_SECONDS)
    assert found["load"] == 3  # the same pass writes the trunk cache


def test_records_without_a_rating_are_counted_in_training_and_readout():
    """As many tokens as 35 training records have take as long as these, but for the fit."""
    config = Config(layers=20, epochs=2)

    def seconds(**changes: int) -> dict[str, float]:
        work = replace(WORK, readout_blocks=20, **changes)
        return {stage.name: stage.seconds for stage in plan_job(work, SPEEDS, config).stages}

    alone, with_them, as_rated = seconds(), seconds(unlabelled_tokens=35 * 100), seconds(train=105)
    assert with_them["train"] == as_rated["train"] == pytest.approx(1.5 * alone["train"])
    assert with_them["readout"] == pytest.approx(as_rated["readout"] - 35 * FIT_SECONDS)
    assert {name for name in alone if with_them[name] != alone[name]} == {"readout", "train"}


def test_the_test_records_of_a_file_with_codes_may_be_rated_in_both_ways():
    speeds = replace(SPEEDS, rating=replace(SPEEDS.rating, code_seconds=0.3))
    without, found = (seconds(plan_job(WORK, each, CONFIG)) for each in (SPEEDS, speeds))
    assert found.pop("judge") == pytest.approx(without.pop("judge") + 20 * 0.3)
    assert found == without


def test_adapted_blocks_move_from_the_steps_to_the_one_pass():
    fewer = with_layers(RATE, -5)
    assert 1 / fewer.tokens_per_second == pytest.approx(0.01 - 5 * 0.0004)
    assert 1 / fewer.look_tokens_per_second == pytest.approx(0.005 - 5 * 0.0002)
    assert fewer.trunk_seconds_per_token == pytest.approx(0.003)
    assert with_layers(RATE, 0) == RATE


def test_without_a_limit_nothing_is_changed():
    settings = plan_job(WORK, SPEEDS, CONFIG).settings
    assert (settings.layers, settings.epochs, settings.model_set_seconds, settings.answers) == (
        20,
        4,
        COMPARED_BUDGET,
        20,
    )
    assert limited(60).settings == settings


def test_settings_are_given_up_in_their_order():
    work = replace(WORK, search_records=200)

    def takes(layers: int, epochs: float, budget: float) -> float:
        config = CONFIG.model_copy(update={"layers": layers, "epochs": epochs, "model_set_budget_seconds": budget})
        return plan_job(work, SPEEDS, config).seconds

    most = COMPARED_BUDGET
    corners = [takes(20, 4, most), takes(10, 4, most), takes(10, 2, most), takes(10, 2, 20)]
    layers, epochs, budget = (limited((one + other) / 2 / 54, work=work).settings for one, other in pairwise(corners))
    assert 10 < layers.layers < 20
    assert (layers.epochs, layers.model_set_seconds, layers.answers) == (4, most, 20)
    assert 2 < epochs.epochs < 4
    assert (epochs.layers, epochs.model_set_seconds, epochs.answers) == (10, most, 20)
    assert 20 < budget.model_set_seconds < most
    assert (budget.layers, budget.epochs, budget.answers) == (10, 2, 20)
    answers = limited((corners[-1] - 5) / 54, work=work).settings
    assert (answers.layers, answers.epochs, answers.model_set_seconds, answers.answers) == (10, 2, 20, 15)


def test_a_plan_keeps_a_reserve():
    plan = limited(4)
    assert 0.8 * 240 < plan.seconds <= 0.9 * 240


def test_given_settings_are_kept():
    tight = plan_job(WORK, SPEEDS, CONFIG).seconds * 0.8 / 54
    assert limited(tight).settings.layers < 20
    kept = limited(tight, "layers").settings
    assert (kept.layers, kept.epochs < 4) == (20, True)


def test_too_little_time_names_the_least_that_would_do():
    with pytest.raises(UsageError, match=r"--minutes 1: the shortest run takes about .* minutes here") as error:
        limited(1)
    least = int(str(error.value).split("give --minutes ")[1].split(",")[0])
    assert limited(least).settings.answers >= 10


def test_time_left_for_training():
    plan = limited(10)
    after = sum(seconds(plan)[name] for name in ("write", "check", "model set", "judge", "report"))
    assert plan.training_seconds(elapsed=100) == pytest.approx(600 - 100 - after)
    assert plan_job(WORK, SPEEDS, CONFIG).training_seconds(100) is None


def test_fewer_answers_where_the_time_has_run_short():
    plan = limited(10)
    later = seconds(plan)["judge"] + seconds(plan)["report"]
    assert plan.longest_answer == 16
    assert plan.answers_within(elapsed=100) == 20
    assert plan.answers_within(600 - later - 15.5 * 16) == 15
    assert plan.answers_within(elapsed=900) == 10
    assert plan_job(WORK, SPEEDS, CONFIG).answers_within(elapsed=900) == 20


def test_actual_seconds_are_kept_with_the_estimate():
    plan = plan_job(WORK, SPEEDS, CONFIG).finished({"read": 6.0, "train": 300.0})
    assert plan.actual == 306
    assert {stage.name: stage.actual for stage in plan.stages}["judge"] is None


def test_without_time_for_a_model_set_no_prompt_is_evaluated():
    found = seconds(plan_job(WORK, SPEEDS, with_changes(CONFIG, model_set_budget_seconds=0)))
    assert "model set" not in found
    assert found["judge"] == seconds(plan_job(WORK, SPEEDS, with_changes(CONFIG, approach="tune")))["judge"]
