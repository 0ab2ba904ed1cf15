"""The search within a time, and the rule of a set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import expertune.modelset
from expertune.errors import EngineError, ModelSetConfigError
from expertune.modelset.build import BuildInputs, Recipe, build
from expertune.modelset.config import parse
from expertune.modelset.schema import schema
from expertune.modelset.search import Budget, halve
from expertune.ratings.scale import make_scale
from expertune.ratings.schema import Split

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


def a_set(**changes):
    """The JSON content of a set of two language models, of which the first rates."""
    inputs = BuildInputs("m", Split((), (), (), {}, 0), SCALE, "", created_at="2026-11-23T09:30:00Z", seed=0)
    content = build(inputs, Recipe("examples")).model_dump(mode="json")
    other = {
        **content["models"][0],
        "name": "other",
        "weight": 0.0,
        "asking": {key: content[key] for key in ("system_prompt", "few_shot_examples", "decoding")},
    }
    return {**content, "models": [content["models"][0], other], **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": {"kind": "single", "members": ["nobody"], "reason": ""}}, "rule: its member is not one"),
        ({"rule": {"kind": "ensemble", "members": ["m", "other"], "reason": ""}}, "ensemble .* no longer supported"),
        ({"rule": {"kind": "single", "members": ["m", "other"], "reason": ""}}, r"rule\.members"),
        ({"weights": (0.5, 0.5)}, "the weight is not 1 for the member that rates"),
        ({"weights": (0.0, 1.0)}, "the weight is not 1 for the member that rates"),
        ({"names": ("m", "m")}, "a name is used twice"),
        ({"names": ("other", "m")}, "the base model comes first"),
        ({"redacted": True}, "cannot both be so"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(changes, message) -> None:
    content = a_set(**{key: value for key, value in changes.items() if key not in ("weights", "names")})
    for key, name in (("weights", "weight"), ("names", "name")):
        for member, value in zip(content["models"], changes.get(key, ()), strict=False):
            member[name] = value
    with pytest.raises(ModelSetConfigError, match=message):
        parse(content)


def test_messages_are_of_the_base_model_unless_another_is_named() -> None:
    base = parse(a_set())
    assert (base.rater, base.has_votes) == ("m", False)
    assert base.messages("text") == base.messages("text", "m")
    content = a_set(rule={"kind": "single", "members": ["other"], "reason": ""})
    for member, weight in zip(content["models"], (0.0, 1.0), strict=True):
        member["weight"] = weight
    content["models"][1]["asking"]["system_prompt"] = "Its own."
    other = parse(content)
    assert (other.rater, other.has_votes) == ("other", True)
    with pytest.raises(ModelSetConfigError, match="rates by other, not by m"):
        other.messages("text")
    own = [{"role": "system", "content": "Its own."}, {"role": "user", "content": "text"}]
    assert other.messages("text", "other") == own


def test_the_published_schema_is_the_one_in_the_code() -> None:
    """Where it is not: `python -m expertune.modelset.schema` writes it anew."""
    path = Path(expertune.modelset.__file__).with_name("model_set.schema.json")
    assert json.loads(path.read_text(encoding="utf-8")) == schema()
