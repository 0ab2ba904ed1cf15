"""What is planted in a rating file is found, all of it, and no split separates what belongs together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.ratings.audit import Finding, audit
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import read_ratings
from expertune.ratings.scale import load_scale
from expertune.ratings.schema import Rating
from expertune.ratings.split import split

DATA = Path(__file__).parent.parent / "data" / "ratings"
SCALE = load_scale(DATA / "ktas_acuity.json", None)
VISITS = read_ratings(DATA / "ktas_acuity_subset.csv", SCALE)
LEAKS = ("Rating: {value}", "Expert rating: {label}", "rated as {label}", '{{"rating": "{label}"}}', "Answer: {value}")
REASON = "low blood pressure and a grey face since this morning"


def shouted(prompt: str) -> str:
    return prompt.upper() + " \n"


def spaced(prompt: str) -> str:
    return prompt.replace(" ", "  ").replace(":", " :")


def reworded(prompt: str) -> str:
    """One word more in the first line; in a visit without vital signs, which is short, other lines first."""
    record, task = prompt.split("\n\n", 1)
    lines = record.splitlines()
    if len(re.findall(r"\d+", record)) > 6:
        lines[0] += " today"
    else:
        lines[:2] = reversed(lines[:2])
    return "\n".join(lines) + "\n\n" + task


def other_value(rating: Rating) -> int:
    return next(value for value in SCALE.values if value != rating.value)


def found(ratings: Sequence[Rating]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(ratings, SCALE, find_duplicates(ratings, 0.9)).findings}


@st.composite
def plants(draw: st.DrawFn) -> dict[str, list[int]]:
    """For each fault up to three rows of their own that get it."""
    faults = ("repeat", "near", "conflict", "leak", "quote", "patient")
    order = draw(st.permutations(range(len(VISITS))))
    sizes = [draw(st.integers(1, 3)) for _ in faults]
    starts = [sum(sizes[:at]) for at in range(len(faults))]
    return {fault: order[start : start + size] for fault, start, size in zip(faults, starts, sizes, strict=True)}


def planted(places: dict[str, list[int]], leak: str, change) -> tuple[list[Rating], dict[str, list[tuple[str, str]]]]:
    """The rows with the faults, and for each fault the ids that belong together (twice the same for one row)."""
    rows = list(VISITS)
    pairs: dict[str, list[tuple[str, str]]] = {fault: [] for fault in places}
    for fault, indices in places.items():
        for at in indices:
            row, copy_id = rows[at], f"{fault}-{at}"
            pairs[fault].append((row.id, copy_id))
            if fault == "repeat":
                rows.append(replace(row, id=copy_id, prompt=change(row.prompt)))
            elif fault == "near":
                rows.append(replace(row, id=copy_id, prompt=reworded(row.prompt)))
            elif fault == "conflict":
                value = other_value(row)
                rows.append(replace(row, id=copy_id, value=value, label=SCALE.label_of(value)))
            elif fault == "leak":
                line = leak.format(value=row.value, label=row.label)
                rows[at] = replace(row, prompt=row.prompt.replace("\n", f"\n{line}\n", 1))
            elif fault == "quote":
                rows[at] = replace(row, rationale=REASON, prompt=f"{row.prompt}\nNote: {REASON}, {at}")
            else:
                rows[at] = replace(row, group=f"patient {at}")
                rows.append(replace(VISITS[(at + 1) % len(VISITS)], id=copy_id, group=f"patient {at}"))
                rows[-1] = replace(rows[-1], prompt=f"Chief complaint: number {at} of its own\nAge {at}")
    return rows, pairs


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(plants(), st.sampled_from(LEAKS), st.sampled_from((shouted, spaced)))
def test_everything_planted_is_found(places: dict[str, list[int]], leak: str, change) -> None:
    rows, pairs = planted(places, leak, change)
    findings = found(rows)

    def both(fault: str) -> set[str]:
        return {id for pair in pairs[fault] for id in pair}

    assert set(findings["exact_duplicates"].row_ids) == both("repeat") | both("conflict")
    assert set(findings["conflicting_ratings"].row_ids) == both("conflict")
    assert both("near") <= set(findings["near_duplicates"].row_ids)
    assert set(findings["rating_in_prompt"].row_ids) == {row for row, _ in pairs["leak"]}
    assert set(findings["rationale_in_prompt"].row_ids) == {row for row, _ in pairs["quote"]}


@settings(max_examples=40, deadline=None)
@given(plants(), st.integers(0, 10**6), st.sampled_from((shouted, spaced)), st.sampled_from([(0.1, 0.2), (0.3, 0.3)]))
def test_no_split_separates_what_belongs_together(
    places: dict[str, list[int]], seed: int, change, shares: tuple[float, float]
) -> None:
    rows, pairs = planted(places, LEAKS[0], change)
    made = split(rows, find_duplicates(rows, 0.9), dev_share=shares[0], test_share=shares[1], seed=seed)
    part_of = {row.id: part for part, members in made.parts().items() for row in members}
    assert sorted(part_of) == sorted(row.id for row in rows)
    for fault in ("repeat", "near", "conflict", "patient"):
        for one, other in pairs[fault]:
            assert part_of[one] == part_of[other], fault
    for group in set(made.groups.values()):
        assert len({part_of[id] for id, name in made.groups.items() if name == group}) == 1


def test_without_plants_nothing_of_the_kind_is_found() -> None:
    kinds = {"exact_duplicates", "conflicting_ratings", "rating_in_prompt", "rationale_in_prompt"}
    assert not kinds & set(found(VISITS))
