"""One honest sentence: is the tuned model worth having?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from ..stats.intervals import Interval
from .compare import Difference, Evaluation

Outcome = Literal["better", "unclear", "not better"]


@dataclass(frozen=True)
class Verdict:
    """`line` is the sentence that is printed first.

    "better" means that the interval of the difference in macro-F1 lies above 0; "unclear" that the tuned model is
    higher but the interval includes 0 ; "not better" is the rest. All are None where
    nothing could be judged.
    """

    line: str
    base: Outcome | None = None
    tfidf: Outcome | None = None
    majority: Outcome | None = None


def verdict(
    tuned: Evaluation, base: Evaluation, tfidf: Evaluation, majority: Evaluation, differences: Sequence[Difference]
) -> Verdict:
    """Weigh `tuned` against the other three; `differences` (of `judge.compare`) must hold one for each of them."""
    found = {each.second: each for each in differences if each.first == tuned.name}
    rivals = {"its base": base, "TF-IDF": tfidf, "the majority class": majority}
    missing = [each.name for each in rivals.values() if each.name not in found]
    if missing:
        raise UsageError(f"no comparison of {tuned.name} with {', '.join(missing)}; compare them first, row by row")
    clauses = [_clause(called, found[each.name]) for called, each in rivals.items()]
    figures = ", ".join(f"{each.name} {_figure(each)}" for each in (tuned, base, tfidf, majority))
    line = f"The {tuned.name} model is {_join(clauses)} – macro-F1 on {tuned.rows} untouched rows: {figures}."
    return Verdict(line, outcome(found[base.name]), outcome(found[tfidf.name]), outcome(found[majority.name]))


def outcome(difference: Difference) -> Outcome:
    if difference.value <= 0:
        return "not better"
    return "unclear" if difference.includes_zero else "better"


def _clause(called: str, difference: Difference) -> str:
    result = outcome(difference)
    by = f"{difference.value:+.3f}{_span(difference.interval)}"
    if result == "unclear":
        why = (
            "but with no interval to prove it"
            if difference.interval is None
            else "but the interval of the difference includes 0"
        )
        return f"not proven better than {called} (higher, {why}: {by})"
    return f"{'better' if result == 'better' else 'NOT better'} than {called} ({by})"


def _figure(evaluation: Evaluation) -> str:
    estimate = evaluation.macro_f1
    return "undefined" if estimate.value is None else f"{estimate.value:.3f}{_span(estimate.interval)}"


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.3f} to {interval.high:.3f}]"


def _join(clauses: Sequence[str]) -> str:
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}"
