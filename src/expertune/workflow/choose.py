"""Tuned file or model set: decided on the dev rows, before a test row is rated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..config import Config
from ..evaluate.compare import compare, evaluate
from ..modelset.fit import ModelSet
from ..modelset.select_raters import proven
from ..predict.score import Pass, Rated
from ..ratings.dataset import Dataset

TUNE, MODEL_SET = "tune", "model-set"


@dataclass(frozen=True)
class ApproachChoice:
    """`reason` is a sentence; `dev` holds the figures that it stands on, empty where there was nothing to compare."""

    approach: Literal["tune", "model-set"]
    reason: str
    dev: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(tuned: Pass, made: ModelSet | None, prepared: Dataset, config: Config) -> ApproachChoice:
    """The tuned file, unless the set is proven better on those dev rows that both have rated.

    It needs no examples in every prompt, and its file is what was asked for.
    """
    if made is None or made.dev is None:
        why = "no model set could be made" if made is None else f"the model set could not be judged: {made.unjudged}"
        return ApproachChoice(TUNE, f"the tuned file stands alone: {why}", {})
    both = {each.id for each in made.dev} & {each.id for each in tuned.rated}
    truth = [row for row in prepared.split.dev if row.id in both]
    scale, groups = prepared.scale, prepared.split.groups
    sides: dict[str, Sequence[Rated]] = {
        "model set": [each for each in made.dev if each.id in both],
        "tuned": [each for each in tuned.rated if each.id in both],
    }
    found = compare(("model set", sides["model set"]), {"tuned": sides["tuned"]}, truth, scale, groups, config)[0]
    figures = {name: evaluate(name, truth, rated, scale, groups, config).macro_f1 for name, rated in sides.items()}
    span = found.interval
    told = (
        f"on {len(truth)} dev rows macro-F1 {figures['model set'].value or 0:.3f} (model set, {made.name}) against "
        f"{figures['tuned'].value or 0:.3f} (tuned), difference {found.value:+.3f}"
        f"{f' [{span.low:+.3f} to {span.high:+.3f}]' if span else ''}"
    )
    dev = {
        "rows": len(truth),
        "macro_f1": {name: asdict(estimate) for name, estimate in figures.items()},
        "difference": found.to_dict(),
        "set_rates_by": made.config.rule.model_dump(mode="json"),
    }
    if proven(found):
        return ApproachChoice(MODEL_SET, f"the model set is better: {told}", dev)
    return ApproachChoice(TUNE, f"the model set is not proven better: {told}", dev)
