"""Choose between a tuned model and a model set by their predictions of the validation records."""

from __future__ import annotations

from ..config import Config
from ..evaluate.compare import compare, evaluate
from ..predict.score import Pass
from ..ratings.dataset import Dataset
from ..record import ApproachChoice, ValidationComparison
from .fit import ModelSet
from .select_raters import proven

TUNE, MODEL_SET = "tune", "model-set"


def by_validation(tuned: Pass, model_set: ModelSet | None, dataset: Dataset, config: Config) -> ApproachChoice:
    """Compare the model set with `tuned`, the tuned model's pass over the validation records."""
    if model_set is None:
        return ApproachChoice(approach=TUNE, reason="only the tuned model is available: no model set could be made")
    if model_set.dev is None:
        why = f"only the tuned model is available: the model set could not be evaluated: {model_set.unjudged}"
        return ApproachChoice(approach=TUNE, reason=why)
    both = {each.id for each in model_set.dev} & {each.id for each in tuned.rated}
    truth = [row for row in dataset.split.dev if row.id in both]
    ours, theirs = ([each for each in side if each.id in both] for side in (tuned.rated, model_set.dev))
    context = (dataset.scale, dataset.split.groups, config)
    difference = compare(("model set", theirs), {"tuned": ours}, truth, *context)[0]
    figures = {
        name: evaluate(name, truth, side, *context).macro_f1 for name, side in (("model set", theirs), ("tuned", ours))
    }
    interval = difference.interval
    line = (
        f"on {len(truth)} validation records macro-F1 {figures['model set'].value or 0:.3f} "
        f"(model set, {model_set.name}) against {figures['tuned'].value or 0:.3f} (tuned), "
        f"difference {difference.value:+.3f}"
        f"{f' [{interval.low:+.3f} to {interval.high:+.3f}]' if interval else ''}"
    )
    dev = ValidationComparison(
        rows=len(truth),
        macro_f1=figures,
        difference=difference,
        set_rates_by=model_set.config.rule.model_dump(mode="json"),
    )
    if proven(difference):
        return ApproachChoice(approach=MODEL_SET, reason=f"the model set is better: {line}", dev=dev)
    return ApproachChoice(approach=TUNE, reason=f"the model set is not proven better: {line}", dev=dev)
