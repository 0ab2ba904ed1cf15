"""Choose the tuned file or the model set by the validation records, before a test record is rated."""

from __future__ import annotations

import logging

from ..config import Config
from ..evaluate.compare import compare, evaluate
from ..modelset.fit import ModelSet
from ..modelset.select_raters import proven
from ..predict.score import Pass
from ..ratings.dataset import Dataset
from ..record import ApproachChoice, ValidationComparison
from .state import Basis, NotTuned, Tuned

log = logging.getLogger("expertune")

TUNE, MODEL_SET = "tune", "model-set"


def choose(tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis) -> ApproachChoice:
    """The tuned file, unless the model set is proven better on those validation records that both have rated.

    It needs no examples in every prompt, and its file is what was asked for.
    """
    choice = _choose(tuned, model_set, basis)
    log.info("choice: %s, %s", choice.approach, choice.reason)
    return choice


def _choose(tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis) -> ApproachChoice:
    if isinstance(tuned, NotTuned):
        why = "--approach model-set" if tuned.reason is None else f"no tuned model: {tuned.reason}"
        return ApproachChoice(approach=MODEL_SET, reason=why)
    if basis.config.approach == TUNE:
        return ApproachChoice(approach=TUNE, reason="--approach tune")
    return by_validation(tuned.dev, model_set, basis.dataset, basis.config)


def by_validation(tuned: Pass, model_set: ModelSet | None, dataset: Dataset, config: Config) -> ApproachChoice:
    """As `choose`, by the tuned file's pass over the validation records."""
    if model_set is None:
        return ApproachChoice(approach=TUNE, reason="the tuned file stands alone: no model set could be made")
    if model_set.dev is None:
        why = f"the tuned file stands alone: the model set could not be judged: {model_set.unjudged}"
        return ApproachChoice(approach=TUNE, reason=why)
    both = {each.id for each in model_set.dev} & {each.id for each in tuned.rated}
    truth = [row for row in dataset.split.dev if row.id in both]
    ours, theirs = ([each for each in side if each.id in both] for side in (tuned.rated, model_set.dev))
    facts = (dataset.scale, dataset.split.groups, config)
    found = compare(("model set", theirs), {"tuned": ours}, truth, *facts)[0]
    figures = {
        name: evaluate(name, truth, side, *facts).macro_f1 for name, side in (("model set", theirs), ("tuned", ours))
    }
    span = found.interval
    line = (
        f"on {len(truth)} dev rows macro-F1 {figures['model set'].value or 0:.3f} (model set, {model_set.name}) "
        f"against {figures['tuned'].value or 0:.3f} (tuned), difference {found.value:+.3f}"
        f"{f' [{span.low:+.3f} to {span.high:+.3f}]' if span else ''}"
    )
    dev = ValidationComparison(
        rows=len(truth), macro_f1=figures, difference=found, set_rates_by=model_set.config.rule.model_dump(mode="json")
    )
    if proven(found):
        return ApproachChoice(approach=MODEL_SET, reason=f"the model set is better: {line}", dev=dev)
    return ApproachChoice(approach=TUNE, reason=f"the model set is not proven better: {line}", dev=dev)
