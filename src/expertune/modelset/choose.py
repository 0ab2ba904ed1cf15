"""Choose between tuned model, readout and model set by their predictions of the validation records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import Config
from ..evaluate.compare import Difference, Evaluation, compare, evaluate, groups_of
from ..predict.score import Pass, Rated
from ..ratings.codes import ScoredBy
from ..ratings.dataset import Dataset
from ..record.sections import ApproachChoice, ValidationComparison
from ..stats.intervals import difference_clustered
from ..stats.metrics import log_loss
from .fit import ModelSet
from .select_raters import proven

ONE_ERROR = 0.6827  # confidence of an interval of one standard error to either side
TUNE, READOUT, MODEL_SET = "tune", "readout", "model-set"


@dataclass(frozen=True)
class ScoringChoice:
    """How the tuned model's labels are scored, why, and macro-F1 and log-loss of each way."""

    by: ScoredBy
    reason: str
    figures: dict[str, dict[str, float]]


def by_validation(tuned: Pass, model_set: ModelSet | None, dataset: Dataset, config: Config) -> ApproachChoice:
    """Compare the model set with `tuned`, the tuned model's pass over the validation records."""
    if model_set is None:
        return ApproachChoice(approach=TUNE, reason="only the tuned model is available: no model set could be made")
    if model_set.dev is None:
        why = f"only the tuned model is available: the model set could not be evaluated: {model_set.unjudged}"
        return ApproachChoice(approach=TUNE, reason=why)
    rows, difference, found = _compared(("model set", model_set.dev), ("tuned", tuned.rated), dataset, config)
    figures = {name: each.macro_f1 for name, each in found.items()}
    (by_set, by_tuned), interval = figures.values(), difference.interval
    line = (
        f"on {rows} validation records macro-F1 {by_set.value or 0:.3f} "
        f"(model set, {model_set.name}) against {by_tuned.value or 0:.3f} (tuned), "
        f"difference {difference.value:+.3f}"
        f"{f' [{interval.low:+.3f} to {interval.high:+.3f}]' if interval else ''}"
    )
    dev = ValidationComparison(
        rows=rows, macro_f1=figures, difference=difference, set_rates_by=model_set.config.rule.model_dump(mode="json")
    )
    if proven(difference):
        return ApproachChoice(approach=MODEL_SET, reason=f"the model set is better: {line}", dev=dev)
    return ApproachChoice(approach=TUNE, reason=f"the model set is not proven better: {line}", dev=dev)


def with_readout(
    choice: ApproachChoice, rival: Sequence[Rated] | None, readout: Pass, dataset: Dataset, config: Config
) -> ApproachChoice:
    """Compare the readout with the product chosen so far, whose predictions of the validation records are `rival`.

    The readout, unless the other's log-loss is lower by more than one standard error, or lower at all and its macro-F1
    proven better: with few records of a rare label one validation part's macro-F1 is mostly chance, while log-loss
    orders raters alike in all parts; and these records have chosen the tuned model's state, nothing of the readout
    (docs/decisions/0013).
    """
    if rival is None:
        return ApproachChoice(approach=READOUT, reason="only the readout could be evaluated")
    name = "tuned" if choice.approach == TUNE else "model set"
    rows, difference, figures = _compared((READOUT, readout.rated), (name, rival), dataset, config)
    loss, macro_f1 = (
        {each: getattr(figure, of) for each, figure in figures.items()} for of in ("log_loss", "macro_f1")
    )
    higher = _higher_log_loss(readout.rated, rival, dataset)
    lower = (loss[READOUT].value or 0.0) < (loss[name].value or 0.0)
    worse = difference.value < 0 and not difference.includes_zero and not lower
    shown = ", ".join(
        f"{each} {loss[each].value or 0:.3f} (macro-F1 {macro_f1[each].value or 0:.3f})" for each in (READOUT, name)
    )
    line = f"log-loss on {rows} validation records: {shown}"
    if higher or worse:
        why = (
            "log-loss is higher by more than its standard error"
            if higher
            else "macro-F1 is proven worse, its log-loss no better"
        )
        return choice.model_copy(update={"reason": f"{choice.reason}; the readout's {why}: {line}"})
    dev = ValidationComparison(rows=rows, macro_f1=macro_f1, difference=difference, log_loss=loss)
    found = "better" if lower else "not worse by more than a standard error"
    return ApproachChoice(approach=READOUT, reason=f"the readout is {found}: {line}", dev=dev)


def _higher_log_loss(first: Sequence[Rated], second: Sequence[Rated], dataset: Dataset) -> bool:
    """Check if the first's log-loss on the validation records is more than one standard error above the second's."""
    by_first, by_second = ({each.id: each.probabilities for each in rated} for rated in (first, second))
    truth = [row for row in dataset.split.dev if row.id in by_first.keys() & by_second.keys()]
    labels = [dataset.scale.values.index(row.value) for row in truth]
    loss_N, other_N = (log_loss(labels, [by[row.id] for row in truth]) for by in (by_first, by_second))
    groups = groups_of([row.id for row in truth], dataset.split.groups)
    found = difference_clustered(loss_N - other_N, groups, ONE_ERROR)
    return (found.interval.low if found.interval else found.value or 0.0) > 0


def by_scoring(
    words: Sequence[Rated], others: Mapping[ScoredBy, Sequence[Rated]], dataset: Dataset, config: Config
) -> ScoringChoice:
    """Choose how the labels are scored: the lowest log-loss, if macro-F1 is not proven worse than by the words."""
    best: ScoredBy = "words"
    losses, scores = dict[str, float](), dict[str, float]()
    for way, rated in others.items():
        _, difference, found = _compared((way, rated), ("words", words), dataset, config)
        losses |= {name: each.log_loss.value or 0.0 for name, each in found.items()}
        scores |= {name: each.macro_f1.value or 0.0 for name, each in found.items()}
        worse = difference.value < 0 and not difference.includes_zero
        if not worse and losses[way] < losses[best]:
            best = way
    shown = ", ".join(f"{way} {loss:.3f} ({scores[way]:.3f})" for way, loss in losses.items())
    figures = {way: {"macro_f1": scores[way], "log_loss": loss} for way, loss in losses.items()}
    return ScoringChoice(best, f"log-loss (macro-F1) on {len(words)} validation records: {shown}", figures)


def _compared(
    first: tuple[str, Sequence[Rated]], second: tuple[str, Sequence[Rated]], dataset: Dataset, config: Config
) -> tuple[int, Difference, dict[str, Evaluation]]:
    """Compare two products by name: the number of validation records that both rated, the difference in macro-F1 on
    them, and the evaluation of each."""
    both = {each.id for each in first[1]} & {each.id for each in second[1]}
    truth = [row for row in dataset.split.dev if row.id in both]
    context = (dataset.scale, dataset.split.groups, config)
    sides = {name: [each for each in rated if each.id in both] for name, rated in (first, second)}
    difference = compare((first[0], sides[first[0]]), {second[0]: sides[second[0]]}, truth, *context)[0]
    return len(truth), difference, {name: evaluate(name, truth, side, *context) for name, side in sides.items()}
