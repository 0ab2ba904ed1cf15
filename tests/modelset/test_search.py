"""The search within a time, the pool, and the rule of a set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import expertune.modelset
from expertune.errors import EngineError, ModelSetConfigError
from expertune.modelset import build as modelset
from expertune.modelset.pool import combine
from expertune.modelset.schema import schema, validate
from expertune.modelset.search import Budget, halve
from expertune.ratings.scale import make_scale
from expertune.stats.calibration import Calibration
from expertune.stats.opinion_pool import fit_weights, pool

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})


class Clock:
    """Time that passes only when something is rated."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def search(skills: list[float], rows: int, seconds: float, faults: dict[int, int] | None = None):
    """Candidates by their skill: the share they give to the truth. A row takes a second."""
    clock, asked, leaders = Clock(), [], []

    def rate(candidate: int, batch):
        if faults and candidate in faults and max(batch) >= faults[candidate]:
            raise EngineError(f"candidate {candidate} is too long")
        clock.now += len(batch)
        asked.extend((candidate, row) for row in batch)
        return [(skills[candidate], 1 - skills[candidate]) for _ in batch]

    found = halve(
        list(range(len(skills))),
        list(range(rows)),
        rate,
        lambda taken, shares: (sum(each[0] for each in shares) / len(taken),),
        Budget(clock, seconds),
        lambda trial: leaders.append((trial.candidate, len(trial.rated))),
    )
    return found, asked, leaders, clock.now


def test_the_best_is_found_and_the_worst_cost_little() -> None:
    found, asked, leaders, seconds = search([0.1, 0.9, 0.3, 0.5, 0.2, 0.4], 96, math.inf)
    assert found.best is not None and found.best.candidate == 1 and len(found.best.rated) == 96 and found.complete
    assert len(found.trials[0].rated) == 24 < 96
    assert len(asked) == len(set(asked)) == seconds < 6 * 96 * 0.6  # nothing is asked twice
    assert leaders[-1] == (1, 96)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 400))
def test_no_row_is_asked_after_the_time_and_what_is_best_was_rated(skills, rows, seconds) -> None:
    found, asked, leaders, spent = search(skills, rows, seconds)
    assert spent <= seconds and len(asked) == len(set(asked))
    if found.best is None:
        assert not found.complete and not leaders
    else:
        assert found.best.rated and leaders[-1][0] == found.best.candidate
    if found.complete and found.best is not None:
        assert len(found.best.rated) == rows and skills[found.best.candidate] == max(skills)


def test_what_cannot_be_asked_is_out_and_told() -> None:
    found, _, _, _ = search([0.9, 0.5, 0.4], 40, math.inf, {0: 5})
    assert found.best is not None and found.best.candidate == 1
    assert found.trials[0].fault == "candidate 0 is too long"
    with pytest.raises(EngineError, match="too long"):
        search([0.9, 0.5], 40, math.inf, {0: 0, 1: 0})


def test_no_rows_and_no_candidates() -> None:
    assert search([0.5], 0, math.inf)[0].best is None
    assert search([], 10, math.inf)[0].best is None


def test_weights_go_to_who_knows_and_are_drawn_to_equal_ones_by_few_rows() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 3, 400)
    knows = np.full((400, 3), 0.1)
    knows[np.arange(400), true] = 0.8
    blind = draw.dirichlet(np.ones(3), 400)
    many = fit_weights(np.stack([knows, blind]), true)
    few = fit_weights(np.stack([knows, blind])[:, :10], true[:10])
    assert many.sum() == pytest.approx(1) and few.sum() == pytest.approx(1)
    assert many[0] > 0.9 > few[0] > 0.6
    assert list(fit_weights(np.stack([knows] * 3)[:, :0], true[:0])) == pytest.approx([1 / 3] * 3)
    assert len(fit_weights(np.stack([knows] * 7), true)) == 7


def a_set(**changes):
    config = modelset.build("m", [], SCALE, "", created_at="2026-11-23T09:30:00Z", seed=0)
    other = {
        **config["models"][0],
        "name": "other",
        "weight": 0.0,
        "asking": {key: config[key] for key in ("system_prompt", "few_shot_examples", "decoding")},
    }
    return {**config, "models": [config["models"][0], other], **changes}


def test_a_single_members_shares_are_as_it_gave_them() -> None:
    assert combine(a_set(), {"m": (0.2, 0.3, 0.5), "other": (1, 0, 0)}) == (0.2, 0.3, 0.5)


def test_an_ensemble_is_calibrated_then_mixed() -> None:
    config = a_set(rule={"kind": "ensemble", "members": ["m", "other"], "reason": "test"})
    config["models"][0] |= {"weight": 0.25, "calibration": {"temperature": 2.0, "bias": [0.3, 0.0, -0.1]}}
    config["models"][1] |= {"weight": 0.75}
    validate(config)
    own = Calibration(2.0, (0.3, 0.0, -0.1), "", 0, 0.0, 0.0, "").apply((0.7, 0.2, 0.1))
    mixed = combine(config, {"m": (0.7, 0.2, 0.1), "other": (0.1, 0.1, 0.8)})
    assert mixed == pytest.approx([0.25 * a + 0.75 * b for a, b in zip(own, (0.1, 0.1, 0.8), strict=True)])
    assert sum(pool({"a": (0.2, 0.8)}, {"a": 0.4})) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": {"kind": "single", "members": ["nobody"], "reason": ""}}, "rule: its members"),
        ({"rule": {"kind": "ensemble", "members": ["m"], "reason": ""}}, "rule: its members"),
        ({"rule": {"kind": "ensemble", "members": ["m", "other"], "reason": ""}, "weights": (0.5, 0.4)}, "sum to 1"),
        ({"weights": (0.5, 0.5)}, "a weight belongs to a member that does not rate"),
        ({"names": ("m", "m")}, "a name is used twice"),
        ({"names": ("other", "m")}, "the base model comes first"),
        ({"redacted": True}, "cannot both be so"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(changes, message) -> None:
    config = a_set(**{key: value for key, value in changes.items() if key not in ("weights", "names")})
    for key, name in (("weights", "weight"), ("names", "name")):
        for member, value in zip(config["models"], changes.get(key, ()), strict=False):
            member[name] = value
    with pytest.raises(ModelSetConfigError, match=message):
        validate(config)


def test_who_asks_a_set_must_know_who_rates() -> None:
    config = a_set(rule={"kind": "single", "members": ["other"], "reason": ""})
    with pytest.raises(ModelSetConfigError, match="rates by other, not by m"):
        modelset.messages(config, "text")
    assert modelset.messages(config, "text", "other")[-1] == {"role": "user", "content": "text"}
    assert modelset.messages(a_set(), "text") == modelset.messages(a_set(), "text", "m")


def test_the_published_schema_is_the_one_in_the_code() -> None:
    """Where it is not: `python -m expertune.modelset.schema` writes it anew."""
    path = Path(expertune.modelset.__file__).with_name("model_set.schema.json")
    assert json.loads(path.read_text(encoding="utf-8")) == schema()
