"""Words that distinguish the expert's labels: a few for each label, from the train rows only.

Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", equations 15, 16 and
22): how much likelier a term is under a label than under the others, drawn towards its share in all rows, so that rare
terms need more evidence. A row counts once for a term, however often it holds it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ..ratings.normalize import specific_lines, words
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from .records import ContextSummary, LabelTerms, Term

PRIOR = 100.0  # prior, in rows, that a label uses a term as all rows do
FEWEST_ROWS, FEWEST_GROUPS = 3, 2  # a term of one patient's records alone may be a name
COMMON = 0.25  # a term of more than this share of the rows is a word of the language, or of the form
CERTAIN = 1.96  # standard deviations above 0
MOST = 8  # terms of one label: each is paid for in every later prompt

Counts = Counter[str]


def summarise(train: Sequence[Rating], scale: RatingScale, groups: Mapping[str, str]) -> ContextSummary:
    """The `context_summary` of a model set, not yet shown: for each label its terms (perhaps none), the surest first.

    `groups` maps a row's id to the id of what belongs together (a patient, one text); other rows stand alone.
    """
    by_label: dict[int, Counts] = {value: Counter() for value in scale.values}
    holders: dict[str, set[str]] = defaultdict(set)
    for row, lines in zip(train, specific_lines([row.prompt for row in train]), strict=True):
        for term in _terms(lines):
            by_label[row.value][term] += 1
            holders[term].add(groups.get(row.id, f"row {row.id}"))
    total = sum(by_label.values(), Counter())
    shared = {
        term
        for term, rows in total.items()
        if FEWEST_ROWS <= rows <= COMMON * len(train) and len(holders[term]) >= FEWEST_GROUPS
    }
    return ContextSummary(
        shown=False,
        method="log-odds, informative Dirichlet prior (Monroe et al. 2008)",
        rows=len(train),
        labels=tuple(
            LabelTerms(label=label, terms=_surest(by_label[value], total, shared))
            for label, value in zip(scale.labels, scale.values, strict=True)
        ),
    )


def summary_text(summary: ContextSummary) -> str:
    """The end of the system prompt; "" where no label has a term."""
    lines = [
        f'- "{each.label}": {", ".join(term.term for term in each.terms)}' for each in summary.labels if each.terms
    ]
    head = "\n\nWords that stand out in the records of each rating (a hint, not a rule):\n"
    return head + "\n".join(lines) if lines else ""


def _terms(lines: Sequence[str]) -> set[str]:
    """Words and pairs of neighbours within a line, without numbers."""
    found: set[str] = set()
    for line in lines:
        own = words(line)
        found.update(word for word in own if _is_word(word))
        found.update(f"{first} {second}" for first, second in pairwise(own) if _is_word(first) and _is_word(second))
    return found


def _is_word(token: str) -> bool:
    return len(token) > 1 and token[0].isalpha() and not any(letter.isdigit() for letter in token)


def _surest(own: Counts, total: Counts, shared: set[str]) -> tuple[Term, ...]:
    everything, mine = sum(total.values()), sum(own.values())
    scored = []
    for term in shared & own.keys():
        prior = PRIOR * total[term] / everything
        log_odds, deviation = _log_odds(own[term], mine, total[term] - own[term], everything - mine, prior)
        scored.append((log_odds / deviation, term, log_odds))
    chosen: list[Term] = []
    for z, term, log_odds in sorted(scored, key=lambda each: (-each[0], each[1])):
        if z < CERTAIN or len(chosen) == MOST:
            break
        if not any(set(term.split()) & set(each.term.split()) for each in chosen):
            chosen.append(Term(term=term, log_odds=round(log_odds, 3), z=round(z, 2), rows=own[term]))
    return tuple(chosen)


def _log_odds(here: int, all_here: int, there: int, all_there: int, prior: float) -> tuple[float, float]:
    """The difference of the two smoothed log-odds, and its standard deviation."""
    first, second = here + prior, there + prior
    odds = math.log(first / (all_here + PRIOR - first)) - math.log(second / (all_there + PRIOR - second))
    return odds, math.sqrt(1 / first + 1 / second)
