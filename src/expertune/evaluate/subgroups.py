"""Subgroup performance: by age band, sex, or any column with few values.

Subgroups of fewer than 20 records are suppressed, as is each figure based on fewer. If fewer than 20 records of a
column are suppressed, the next smallest subgroup is too (complementary suppression): otherwise the suppressed counts
would follow from the total.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..predict.score import Rated
from ..ratings.cells import is_blank_text
from ..ratings.columns import columns_of, folded
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.intervals import Estimate
from .compare import ClassResult, accuracy, match_rows, per_class

FEWEST = 20
MOST_VALUES, LONGEST_VALUE = 12, 40  # a column with more or longer values contains texts or ids
USUAL = ("Age", "Sex")
NOT_GIVEN = "not given"
BANDS = ((1, "under 1"), (5, "1–4"), (18, "5–17"), (45, "18–44"), (65, "45–64"), (131, "65 and over"))  # years below
_AGE = re.compile(
    r"[<>≥~]?\s*(?P<number>\d{1,3}(?:[.,]\d+)?)\s*\+?\s*-?\s*"
    r"(?:(?P<year>y|yrs?|years?|yo|y/o|a)|(?P<month>m|mos?|months?)|(?P<week>w|wks?|weeks?)|(?P<day>d|days?))?"
    r"\.?\s*-?\s*(?:old)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SubgroupClass:
    """One label against the rest in one subgroup; a figure based on fewer than 20 records is None."""

    label: str
    sensitivity: Estimate | None
    specificity: Estimate | None
    ppv: Estimate | None
    npv: Estimate | None


@dataclass(frozen=True)
class Subgroup:
    """One subgroup; `hidden` says why all figures are suppressed: too few records, or complementary suppression."""

    name: str
    hidden: Literal["few", "complement"] | None
    rows: int | None = None
    accuracy: Estimate | None = None
    per_class: tuple[SubgroupClass, ...] = ()


@dataclass(frozen=True)
class SubgroupColumn:
    """Subgroups of one column; `note` says why there are none."""

    column: str
    strata: tuple[Subgroup, ...] = ()
    note: str | None = None


def subgroups_of(
    truth: Sequence[Rating],
    rated: Sequence[Rated],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    columns: Sequence[str],
    confidence: float,
) -> tuple[SubgroupColumn, ...]:
    """Evaluate one rater by these columns; without any, by age and sex where present."""
    there, by_id = columns_of(truth), {each.id: each for each in rated}

    def subgroup(name: str, rows: Sequence[Rating]) -> Subgroup:
        rater = match_rows(rows, [by_id[row.id] for row in rows], scale, groups)
        classes = tuple(_class(each) for each in per_class(rater, scale, confidence))
        return Subgroup(name, None, len(rows), accuracy(rater, confidence), classes)

    results = []
    for name in columns or [name for name in USUAL if folded(name) in there]:
        column = there.get(folded(name))
        if column is None:
            results.append(SubgroupColumn(name, note="the dataset has no such column"))
        else:
            results.append(_column(column, truth, subgroup))
    return tuple(results)


def _column(
    column: str, truth: Sequence[Rating], subgroup: Callable[[str, Sequence[Rating]], Subgroup]
) -> SubgroupColumn:
    cells = [row.extra.get(column, "") for row in truth]
    banded = _are_ages(column, cells)
    names = [age_band(cell) or NOT_GIVEN for cell in cells] if banded else _values(cells)
    if len(set(names)) > MOST_VALUES or any(len(name) > LONGEST_VALUE for name in names):
        what = f"more than {MOST_VALUES} values, or longer ones than {LONGEST_VALUE} characters"
        return SubgroupColumn(column, note=f"{what}; give a column with few")
    members: dict[str, list[Rating]] = defaultdict(list)
    for row, name in zip(truth, names, strict=True):
        members[name].append(row)
    order = [name for _, name in BANDS] if banded else sorted(members)
    hidden = hide({name: len(rows) for name, rows in members.items()})
    strata = [
        Subgroup(name, hidden[name]) if name in hidden else subgroup(name, members[name])
        for name in sorted(members, key=lambda name: (name == NOT_GIVEN, order.index(name) if name in order else 0))
    ]
    return SubgroupColumn(column, tuple(strata if banded else _unnamed(strata)))


def hide(sizes: Mapping[str, int]) -> dict[str, Literal["few", "complement"]]:
    """Choose the subgroups of one column to suppress, by their number of records, with the reason."""
    hidden: dict[str, Literal["few", "complement"]] = {name: "few" for name, size in sizes.items() if size < FEWEST}
    for name in sorted(sizes.keys() - hidden.keys(), key=lambda name: (sizes[name], name)):
        if not 0 < sum(sizes[other] for other in hidden) < FEWEST:
            break
        hidden[name] = "complement"
    return hidden


def _unnamed(strata: Sequence[Subgroup]) -> list[Subgroup]:
    """Count rare values instead of naming them: they may identify a person, or be misplaced text."""
    rare = [each for each in strata if each.hidden == "few" and each.name != NOT_GIVEN]
    kept = [each for each in strata if each not in rare]
    if rare:
        kept.append(replace(rare[0], name=f"{len(rare)} other value{'s' if len(rare) > 1 else ''}"))
    return kept


def _class(result: ClassResult) -> SubgroupClass:
    figures = (result.sensitivity, result.specificity, result.ppv, result.npv)
    return SubgroupClass(result.label, *(each if each.n >= FEWEST else None for each in figures))


def _are_ages(column: str, cells: Sequence[str]) -> bool:
    """Check for a column of ages: a word of its name begins with "age", and most cells parse as ages."""
    if not re.search(r"(?<![a-z])age", column.casefold()):
        return False
    filled = [cell for cell in cells if not is_blank_text(cell)]
    return sum(age_band(cell) is not None for cell in filled) * 2 > len(filled)


def age_band(cell: str) -> str | None:
    """Band of an age such as "34", "34Y", "6 months", "90+"; None if it is not an age. A bare number is in years."""
    match = _AGE.fullmatch(cell.strip())
    if match is None:
        return None
    number = float(match["number"].replace(",", "."))
    parts = {"month": 12.0, "week": 52.18, "day": 365.25}
    years = number / next((each for unit, each in parts.items() if match[unit]), 1.0)
    return next((name for below, name in BANDS if years < below), None)


def _values(cells: Sequence[str]) -> list[str]:
    """Value of each cell; spellings that differ in case or spaces are merged under the most common one."""
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        spelt[" ".join(cell.casefold().split())][" ".join(cell.split())] += 1
    name = {key: NOT_GIVEN if is_blank_text(key) else count.most_common(1)[0][0] for key, count in spelt.items()}
    return [name[" ".join(cell.casefold().split())] for cell in cells]
