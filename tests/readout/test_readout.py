"""The readout: what it learns from, its file, when it is recommended, and that it rates as it was judged."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from expertune.config import make_config, with_changes
from expertune.errors import EngineError, UsageError
from expertune.evaluate.compare import evaluate
from expertune.fine_tuner import FineTuner
from expertune.model.states import SharedTokens
from expertune.modelset.choose import with_readout
from expertune.predict.score import Pass, Rated
from expertune.rate.artifact import load_product
from expertune.rate.columns import LABEL, share_columns
from expertune.rate.runner import rate_file
from expertune.rate.serve import serve
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.readout import record as readout_file
from expertune.readout.classifier import ReadoutClassifier
from expertune.readout.curve import states_curve
from expertune.readout.fit import Fit, fit
from expertune.readout.record import ReadoutRecord, rater_at
from expertune.readout.states import PooledStates, depths_of
from expertune.record import ApproachChoice
from expertune.register.preflight import gate_failures
from rate.stub import Counted, read_csv
from records import run_record

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
TOPIC = "respiratory infections"
CONFIG = make_config({"bootstrap_resamples": 200})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(pd.read_csv(ROWS).head(160), {"Match": 1, "Does Not Match": 0, "Unknown": -1}, TOPIC, CONFIG)


def states_of(dataset: Dataset, *, known: float) -> PooledStates:
    """Noise of two depths; at the second one the tokens' deviation also knows the label, `known` units apart."""
    draw = np.random.default_rng(0)
    states_NLPD = draw.normal(size=(len(dataset.split.train), 2, 2, 8)).astype(np.float32)
    for at, row in enumerate(dataset.split.train):
        states_NLPD[at, 1, 1, row.value] += known
    return PooledStates(states_NLPD, (3, 5), SharedTokens(20, 4))


def fitted(dataset: Dataset, found: PooledStates, **how: Any) -> Fit:
    made = fit(dataset.split.train, found, dataset.scale, dataset.split.groups, seed=1, **how)
    assert made is not None
    return made


def as_record(made: Fit) -> ReadoutRecord:
    return ReadoutRecord(
        version=3,
        base_model="base.gguf",
        base="b" * 64,
        created_at="2026-01-01T00:00:00Z",
        rating_mapping={"Match": 1, "Does Not Match": 0, "Unknown": -1},
        target_topics=TOPIC,
        shared_beginning=20,
        shared_end=4,
        states=dict(made.states),
        words=dict(made.words),
        weights=dict(made.weights),
        label_bias=made.label_bias,
        label_weights=made.label_weights,
        out_of_fold=dict(made.figures),
    )


# --- fitting ---


@pytest.mark.slow
def test_depth_and_features_that_know_the_label_are_found(dataset: Dataset) -> None:
    made = fitted(dataset, states_of(dataset, known=6.0))
    knowing, noise = (made.figures[rater_at(depth)] for depth in (5, 3))
    assert (made.best_states.depth, made.best_states.features) == (5, "mean and deviation")
    assert made.weights[rater_at(5)] > 2 * made.weights.get(rater_at(3), 0.0)
    assert knowing.macro_f1 > 0.9 > made.figures["TF-IDF"].macro_f1 and noise.macro_f1 < 0.6
    assert made.figures["fused"].log_loss <= knowing.log_loss < made.figures["TF-IDF"].log_loss
    assert made.figures["naive Bayes"].log_loss > knowing.log_loss
    right = [dataset.scale.values[at] for at in made.out_of_fold_NK.argmax(axis=1)]
    assert np.mean([row.value == each for row, each in zip(dataset.split.train, right, strict=True)]) > 0.9
    assert made.out_of_fold_NK.sum(axis=1) == pytest.approx(1)


@pytest.mark.slow
def test_states_that_know_nothing_get_no_weight_by_out_of_fold_figures(dataset: Dataset) -> None:
    made = fitted(dataset, states_of(dataset, known=0.0))
    for depth in (3, 5):  # no record judged by a fit that saw it
        assert made.figures[rater_at(depth)].log_loss > made.figures["TF-IDF"].log_loss
    assert sum(made.weights[name] for name in made.states) < sum(made.weights[name] for name in made.words)


@pytest.mark.slow
def test_each_depth_that_knows_something_of_its_own_has_a_part(dataset: Dataset) -> None:
    """One tells Match from the others, the other one Unknown: no depth alone knows the label."""
    found = states_of(dataset, known=0.0)
    for at, row in enumerate(dataset.split.train):
        found.states_NLPD[at, 0, 0, 0] += 6.0 * (row.value == 1)
        found.states_NLPD[at, 1, 0, 0] += 6.0 * (row.value == -1)
    made = fitted(dataset, found, words=False)
    alone = [made.figures[rater_at(depth)].log_loss for depth in (3, 5)]
    assert made.figures["fused"].log_loss < 0.6 * min(alone)
    assert made.figures["fused"].macro_f1 > 0.8 > max(made.figures[rater_at(depth)].macro_f1 for depth in (3, 5))
    record = as_record(made)
    assert record.depths == (3, 5)
    shares = ReadoutClassifier(record).predict(found.after(record.depths), [row.prompt for row in dataset.split.train])
    labels = [dataset.scale.values[each.index(max(each))] for each in shares]
    assert np.mean([row.value == own for row, own in zip(dataset.split.train, labels, strict=True)]) > 0.9


@pytest.mark.slow
def test_the_learning_curve_is_of_the_chosen_states(dataset: Dataset) -> None:
    split, scale = dataset.split, dataset.scale

    def values(known: float) -> list[float]:
        found = states_of(dataset, known=known)
        curve = states_curve(split.train, found, fitted(dataset, found).best_states, scale, split.groups, CONFIG)
        assert curve is not None and curve.rater == "readout without word counts"
        return [each.macro_f1.value or 0.0 for each in curve.points]

    rising = values(6.0)
    assert rising[-1] > 0.9 and rising[-1] > rising[0]
    assert max(values(0.0)) < 0.6


@pytest.mark.slow
def test_records_of_one_group_are_in_one_fold(dataset: Dataset) -> None:
    """Each group has a state of its own and one label: whoever sees a group's record knows the others' label."""
    found, draw = states_of(dataset, known=0.0), np.random.default_rng(1)
    groups = {row.id: f"{row.value} {at // 40}" for at, row in enumerate(dataset.split.train)}
    own = {group: draw.normal(size=8) * 20 for group in sorted(set(groups.values()))}
    for at, row in enumerate(dataset.split.train):
        found.states_NLPD[at] += own[groups[row.id]].astype(np.float32)
    by_group = fit(dataset.split.train, found, dataset.scale, groups, seed=1)
    leaking = fit(dataset.split.train, found, dataset.scale, {}, seed=1)
    name = rater_at(3)
    assert by_group is None or (leaking and by_group.figures[name].macro_f1 < leaking.figures[name].macro_f1)
    assert leaking and leaking.figures[name].macro_f1 > 0.9


def test_too_few_records_give_no_readout(dataset: Dataset) -> None:
    found = states_of(dataset, known=1.0)
    few = PooledStates(found.states_NLPD[:8], found.depths, found.shared)
    assert fit(dataset.split.train[:8], few, dataset.scale, {}, seed=1) is None


def test_the_depths_of_any_number_of_blocks() -> None:
    assert (depths_of(30), depths_of(18), depths_of(1)) == ((10, 15, 20), (6, 9, 12), (1,))


# --- the file ---


@pytest.mark.slow
def test_the_file_rates_as_the_fit(dataset: Dataset, tmp_path: Path) -> None:
    found = states_of(dataset, known=1.0)
    record, path = as_record(fitted(dataset, found)), tmp_path / "readout.json"
    readout_file.write(path, record)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = readout_file.read(path)
    assert again == record
    prompts = [row.prompt for row in dataset.split.train]
    shares = ReadoutClassifier(again).predict(found.after(again.depths), prompts)
    assert [sum(each) for each in shares] == pytest.approx([1.0] * len(prompts))
    truth = [list(record.rating_mapping.values()).index(row.value) for row in dataset.split.train]
    loss = -np.mean([math.log(each[label]) for each, label in zip(shares, truth, strict=True)])
    assert loss < record.out_of_fold["fused"].log_loss  # of the records that it was fitted on


def test_a_redacted_readout_has_no_words(dataset: Dataset, tmp_path: Path) -> None:
    record = as_record(fitted(dataset, states_of(dataset, known=0.5), words=False))
    assert not record.words and record.weights.keys() == record.states.keys()
    readout_file.write(tmp_path / "readout.json", record)
    assert "cough" not in (tmp_path / "readout.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "version 3 is needed"),
        ({"words": {}}, "damaged"),
        ({"label_weights": [1.0]}, "damaged"),
        ({"states": {"states": {"depth": 0}}}, r"damaged \(at states"),
        ({"version": 2, "states": {"depth": 0, "shared_beginning": 1, "shared_end": 1}}, r"damaged \(at states"),
        ({"version": 2, "states": []}, "damaged"),
        ({"rating_mapping": {"Other": 1, "No": 0}}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    change: dict[str, Any], said: str, dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "readout.json"
    readout_file.write(path, as_record(fitted(dataset, states_of(dataset, known=0.5))))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=said) as refused:
        readout_file.read(path)
    assert "\n" not in str(refused.value) and "cough" not in str(refused.value)
    path.write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        readout_file.read(path)


def test_a_file_of_version_2_rates_as_before(dataset: Dataset, tmp_path: Path) -> None:
    """It has one rater by states, which holds the shared ends of the prompts and has no name."""
    found = states_of(dataset, known=1.0)
    kept = as_record(fitted(dataset, found, words=False)).model_dump(mode="json")
    name = rater_at(5)
    own = kept["states"][name] | {"shared_beginning": 20, "shared_end": 4}
    old = {key: each for key, each in kept.items() if not key.startswith("shared")}
    old |= {"version": 2, "states": own, "weights": {"states": kept["weights"][name]}}
    (tmp_path / "readout.json").write_text(json.dumps(old))
    record = readout_file.read(tmp_path / "readout.json")
    assert (record.version, record.depths, record.shared_beginning, record.shared_end) == (3, (5,), 20, 4)
    alone = record.states["states"].predict(found.after((5,))[:, 0], list(record.rating_mapping))
    powered = alone ** record.weights["states"] * np.exp(record.label_bias)
    shares = ReadoutClassifier(record).predict(found.after(record.depths), [row.prompt for row in dataset.split.train])
    assert np.asarray(shares) == pytest.approx(powered / powered.sum(axis=1, keepdims=True))


# --- the choice ---


def rated_with(dataset: Dataset, right: Sequence[bool], sure: float) -> tuple[Rated, ...]:
    """The validation records, rated rightly or not, at this probability."""
    rest = (1 - sure) / 2
    found = []
    for row, is_right in zip(dataset.split.dev, right, strict=True):
        at = (dataset.scale.values.index(row.value) + (not is_right)) % 3
        found.append(Rated.of(row.id, [sure if place == at else rest for place in range(3)], dataset.scale))
    return tuple(found)


def test_the_readout_is_chosen_unless_it_is_worse_beyond_a_standard_error(dataset: Dataset) -> None:
    count = len(dataset.split.dev)
    tuned = ApproachChoice(approach="tune", reason="the tuned one so far")
    half, nearly, all_ = ([at % by > 0 for at in range(count)] for by in (2, 8, count + 1))

    def choose(rival: tuple[Rated, ...] | None, ours: tuple[Rated, ...], so_far: ApproachChoice = tuned) -> Any:
        return with_readout(so_far, rival, Pass(ours, 1.0, 1.0, 1), dataset, CONFIG)

    better = choose(rated_with(dataset, half, 0.9), rated_with(dataset, nearly, 0.9))
    assert better.approach == "readout" and "the readout is better: log-loss on" in better.reason
    assert better.dev.log_loss["readout"].value < better.dev.log_loss["tuned"].value and better.dev.rows == count
    surer = choose(rated_with(dataset, nearly, 0.5), rated_with(dataset, nearly, 0.9))
    assert surer.approach == "readout"  # macro-F1 is equal
    kept = choose(rated_with(dataset, nearly, 0.9), rated_with(dataset, half, 0.9))
    assert kept.approach == "tune" and kept.reason.startswith(
        "the tuned one so far; the readout's log-loss is higher by more than its standard error"
    )
    one_more = choose(rated_with(dataset, nearly, 0.9), rated_with(dataset, [False, *nearly[1:-1], False], 0.9))
    assert (
        one_more.approach == "readout" and one_more.dev.log_loss["readout"].value > one_more.dev.log_loss["tuned"].value
    )
    worse = choose(rated_with(dataset, all_, 0.36), rated_with(dataset, half, 0.5))
    assert worse.approach == "tune" and "the readout's macro-F1 is proven worse, its log-loss no better" in worse.reason
    in_one_only = choose(rated_with(dataset, all_, 0.35), rated_with(dataset, half, 0.5))
    assert in_one_only.approach == "readout" and not in_one_only.dev.difference.includes_zero
    assert in_one_only.dev.log_loss["readout"].value < in_one_only.dev.log_loss["tuned"].value
    set_so_far = ApproachChoice(approach="model-set", reason="no tuned model")
    alone = choose(None, rated_with(dataset, half, 0.9), set_so_far)
    assert (alone.approach, alone.dev) == ("readout", None)
    assert "model set" in choose(rated_with(dataset, half, 0.9), rated_with(dataset, all_, 0.9), set_so_far).reason


def test_where_the_readout_is_recommended_the_gate_still_judges_the_tuned_file(dataset: Dataset) -> None:
    """The verdict, "better" than all, is the readout's."""
    wrong_every = {"readout": 12, "tuned": 3, "base": 5, "majority": 2}
    evaluations = tuple(
        evaluate(
            name,
            dataset.split.dev,
            rated_with(dataset, [at % every > 0 for at in range(len(dataset.split.dev))], 0.9),
            dataset.scale,
            dataset.split.groups,
            CONFIG,
        )
        for name, every in wrong_every.items()
    )
    record = run_record(choice={"approach": "readout", "reason": "lower log-loss"})
    figures = record.evaluation.model_copy(update={"evaluations": evaluations})
    assert gate_failures(record.model_copy(update={"evaluation": figures})) == [
        "the tuned model is not better than its base on the test records"
    ]


# --- the whole way ---


@pytest.mark.slow
def test_a_run_recommends_it_and_rate_gives_what_was_judged(tmp_path: Path, dataset: Dataset) -> None:
    settings = {"epochs": 0.3, "learning_rate": 1e-5, "threads": 1, "bootstrap_resamples": 200, "compute_dtype": "fp32"}
    _, metadata = FineTuner(quiet=True).process_dataset(
        pd.read_csv(ROWS).head(160), str(BASE), None, TOPIC, tmp_path / "run", model_set_budget_seconds=1.0, **settings
    )
    assert metadata["choice"]["approach"] == "readout" and metadata["readout_info"]["output_file"] == "readout.json"
    assert metadata["evaluation"]["evaluations"][0]["name"] == "readout" and metadata["rating"]["conformal"]
    assert metadata["verdict"].startswith("Recommended for rating: the readout (")
    rows = dataset.split.test
    source, output = tmp_path / "new.csv", tmp_path / "rated.csv"
    pd.DataFrame({"Row_ID": [row.id for row in rows], "Prompt": [row.prompt for row in rows]}).to_csv(
        source, index=False
    )
    product = load_product(tmp_path / "run")
    assert product.kind == "readout" and product.trust.conformal is not None
    with serve(product, "llama.cpp", threads=1) as served:
        rate_file(source, output, product, served, Counted().stage, calibrated=False)
        rate_file(source, tmp_path / "calibrated.csv", product, served, Counted().stage)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(served.scorer.score, [row.prompt for row in rows]))
        with pytest.raises(EngineError, match="tokens but the context holds"):
            served.scorer.score("cough " * 5000)
        assert served.scorer.explain(rows[0].prompt, "Match", max_tokens=4) is not None
    shares = [[float(row[column]) for column in share_columns(dataset.scale).values()] for row in read_csv(output)]
    for ours, each in zip(shares, together, strict=True):
        assert ours == pytest.approx(each.probabilities, abs=1e-4)
    truth = [dataset.scale.values.index(row.value) for row in rows]
    loss = -np.mean([math.log(each[label]) for each, label in zip(shares, truth, strict=True)])
    assert loss == pytest.approx(metadata["evaluation"]["evaluations"][0]["log_loss"]["value"], abs=1e-3)
    judged = pd.read_csv(tmp_path / "run" / "test_predictions.csv", dtype=str).set_index("id")["readout_label"]
    labels = [judged[row.id] for row in rows]
    assert [row[LABEL] for row in read_csv(output)] == labels
    assert [row[LABEL] for row in read_csv(tmp_path / "calibrated.csv")] == labels
    with pytest.raises(UsageError, match="Ollama gives no hidden states"), serve(product, "ollama"):
        pass
    assert load_product(tmp_path / "run", "model-set").trust.conformal is None  # learnt for the recommended one only
    (tmp_path / "run" / "readout.json").write_text("{}")
    with pytest.raises(UsageError, match="not the file that was judged"):
        load_product(tmp_path / "run")


def test_redacting_and_switching_off_are_settings() -> None:
    assert CONFIG.readout and not with_changes(CONFIG, readout=False).readout
    with pytest.raises(ValidationError):
        ReadoutRecord.model_validate({})
