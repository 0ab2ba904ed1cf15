"""Verdict of a run: one sentence that compares the judged model with its base, TF-IDF and the majority class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from ..stats.intervals import Interval
from .compare import Difference, Evaluation

Outcome = Literal["better", "unclear", "not better"]
WORD_COUNTS = "TF-IDF set"  # a model set whose rater is a pool of classifiers on word counts
_CALLED = {  # the product, where "… model" would be wrong
    WORD_COUNTS: "pool of word-count classifiers (no language model)",
    "decision model": "decision model of the model set",
    "readout": "readout of the base model's hidden states and word counts",
}


@dataclass(frozen=True)
class Verdict:
    """Sentence for people, and outcomes for the quality gate. `line` is printed first.

    An outcome is "better" where the interval of the difference in macro-F1 is above 0, "unclear" where the tuned model
    is higher but the interval includes 0, and "not better" where it is not higher. The sentence says "worse than" only
    where the interval is below 0, and "no clear difference from" where it includes 0. The outcomes are
    None where nothing could be judged.
    """

    line: str
    base: Outcome | None = None
    tfidf: Outcome | None = None
    majority: Outcome | None = None


def verdict(
    tuned: Evaluation, base: Evaluation, tfidf: Evaluation, majority: Evaluation, differences: Sequence[Difference]
) -> Verdict:
    """Compare `tuned` with the other three; `differences` (of `judge.compare`) must hold one for each of them.

    Raises UsageError where one is missing.
    """
    by_rival = {each.second: each for each in differences if each.first == tuned.name}
    rivals = {
        "the base model": base,
        "a word-count classifier (TF-IDF)": tfidf,
        "always choosing the most common label": majority,
    }
    missing = [each.name for each in rivals.values() if each.name not in by_rival]
    if missing:
        raise UsageError(f"no comparison of {tuned.name} with {', '.join(missing)}; compare them first, row by row")
    *clauses, last = (_clause(called, by_rival[each.name]) for called, each in rivals.items())
    figures = ", ".join(f"{each.name} {_figure(each)}" for each in (tuned, *rivals.values()))
    found = f"{', '.join(clauses)} and {last}"
    subject = _CALLED.get(tuned.name, f"{tuned.name} model")
    line = f"The {subject} {found} – macro-F1 on {tuned.rows} records kept back for testing: {figures}."
    outcomes: dict[str, Outcome] = {each.name: outcome(by_rival[each.name]) for each in rivals.values()}
    return Verdict(line, outcomes[base.name], outcomes[tfidf.name], outcomes[majority.name])


def outcome(difference: Difference) -> Outcome:
    """Classify a difference for the quality gate."""
    if difference.value <= 0:
        return "not better"
    return "unclear" if difference.includes_zero else "better"


def _clause(called: str, difference: Difference) -> str:
    by = f"{difference.value:+.3f}{_span(difference.interval) or ', no interval'}"
    if difference.includes_zero:
        return f"shows no clear difference from {called} ({by})"
    return f"is {'better' if difference.value > 0 else 'worse'} than {called} ({by})"


def _figure(evaluation: Evaluation) -> str:
    estimate = evaluation.macro_f1
    return "undefined" if estimate.value is None else f"{estimate.value:.3f}{_span(estimate.interval)}"


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.3f} to {interval.high:.3f}]"
