"""Ratings → train, dev and test: grouped, stratified by rating, seeded."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from ..errors import DatasetError
from .near_duplicates import near_pairs, same_texts
from .read import ROW_ID
from .schema import Rating, Split

PARTS = ("train", "dev", "test")
_SEARCH_STEPS = 20_000


def group_ratings(ratings: Sequence[Rating], near_duplicate: float) -> dict[str, str]:
    """Row id → group id. Rows of one patient, of one Row_ID, with one text or nearly one text are one group.

    A group's id is the first of its rows' ids, so it does not depend on the rows' order.
    """
    owners: dict[object, list[int]] = defaultdict(list)
    for i, rating in enumerate(ratings):
        if rating.group:
            owners["patient", rating.group].append(i)
        # where Row_ID repeats, the reader gave other ids and kept it here
        if rating.extra.get(ROW_ID[0]):
            owners["row", rating.extra[ROW_ID[0]]].append(i)
    prompts = [rating.prompt for rating in ratings]
    links = [(same[0], i) for same in (*owners.values(), *same_texts(prompts)) for i in same[1:]]
    roots = _connect(len(ratings), [*links, *near_pairs(prompts, near_duplicate)])
    first: dict[int, str] = {}
    for i, root in enumerate(roots):
        first[root] = min(first.get(root, ratings[i].id), ratings[i].id, key=_order)
    return {rating.id: first[root] for rating, root in zip(ratings, roots, strict=True)}


def _connect(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The root of each item after all links (union-find with path halving)."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in links:
        parent[root(i)] = root(j)
    return [root(i) for i in range(count)]


def _order(id: str) -> tuple[int, str]:
    """Numbers in their own order ("9" before "10"), then longer ids."""
    return len(id), id


def split(ratings: Sequence[Rating], *, dev_share: float, test_share: float, seed: int, near_duplicate: float) -> Split:
    """The rows in three parts; each class as near its shares as the groups allow.

    A class with three or more groups is in all three parts. The same ids, texts and seed give the same split
    whatever the rows' order; each part is sorted by id.
    Raises DatasetError for one class only, fewer than three groups, repeated ids, or a group too large to split.
    """
    rows = sorted(ratings, key=lambda rating: _order(rating.id))
    _check_rows(rows)
    group_of = group_ratings(rows, near_duplicate)
    members: dict[str, list[Rating]] = defaultdict(list)
    for rating in rows:
        members[group_of[rating.id]].append(rating)
    shares = {"train": 1 - dev_share - test_share, "dev": dev_share, "test": test_share}
    _check_groups(members, len(rows), shares)
    names = sorted(members, key=_order)
    random.Random(seed).shuffle(names)
    classes = {name: Counter(rating.value for rating in members[name]) for name in names}
    part_of = _allocate(classes, shares)
    parts = {part: tuple(rating for rating in rows if part_of[group_of[rating.id]] == part) for part in PARTS}
    return Split(**parts, groups=group_of, seed=seed)


def _check_rows(rows: Sequence[Rating]) -> None:
    repeated = [rating.id for rating, after in pairwise(rows) if rating.id == after.id]
    if repeated:
        raise DatasetError(f"row id {repeated[0]} is there more than once; give each row its own id")
    labels = sorted({rating.label for rating in rows})
    if len(labels) < 2:
        raise DatasetError(
            f"all {len(rows)} rows are rated {', '.join(labels) or 'nothing'}; "
            "rate rows of at least one other class too: there is nothing to tell apart"
        )


def _check_groups(members: Mapping[str, Sequence[Rating]], rows: int, shares: Mapping[str, float]) -> None:
    largest = max(members, key=lambda name: len(members[name]))
    size = len(members[largest])
    remedy = "correct the patient ids, remove repeated texts, raise near_duplicate_threshold, or add rows of others"
    if len(members) < len(PARTS):
        raise DatasetError(
            f"the {rows} rows are only {len(members)} separate groups (same patient, same or nearly the "
            f"same text), too few for train, dev and test; {remedy}"
        )
    # such a group fits nowhere but in train, and would leave dev and test with less than half of their shares
    if rows - size < rows * (1 - shares["train"]) / 2:
        raise DatasetError(
            f"{size} of {rows} rows are one group (same patient, same or nearly the same text; "
            f"first id {largest}) and must stay together, which leaves too little to test on; {remedy}"
        )


def _allocate(classes: Mapping[str, Counter[int]], shares: Mapping[str, float]) -> dict[str, str]:
    """Group → part. `classes` counts each group's ratings, in the seed's order.

    First every class gets a foothold in every part, then the rest follows the parts' remaining wants, rarest class
    and largest group first (iterative stratification, Sechidis et al. 2011).
    """
    totals = sum(classes.values(), Counter())
    part_of = _footholds(classes, totals)
    wants = {part: {value: share * totals[value] for value in totals} for part, share in shares.items()}
    left = Counter(totals)

    def place(name: str, part: str) -> None:
        part_of[name] = part
        for value, count in classes[name].items():
            wants[part][value] -= count
            left[value] -= count

    for name, part in list(part_of.items()):
        place(name, part)
    for value in sorted(totals, key=lambda value: (totals[value], value)):
        waiting = [name for name in classes if name not in part_of and value in classes[name]]
        for name in sorted(waiting, key=lambda name: -classes[name].total()):
            place(name, max(PARTS, key=lambda part: (_gain(wants[part], classes[name]), sum(wants[part].values()))))
    return part_of


def _gain(wants: Mapping[int, float], counts: Mapping[int, int]) -> float:
    """How much nearer (squared) a part comes to what it wants by taking these ratings."""
    return sum(wants[value] ** 2 - (wants[value] - count) ** 2 for value, count in counts.items())


def _footholds(classes: Mapping[str, Counter[int]], totals: Mapping[int, int]) -> dict[str, str]:
    """The fewest, smallest groups with which each class of three or more groups is in each part.

    If it can be, a class of two groups is in train and test and a class of one group in train; no part is empty.
    Raises DatasetError where classes share their groups in a way that allows no such choice.
    """
    holders = {
        value: sorted((name for name in classes if value in classes[name]), key=lambda n: classes[n].total())
        for value in sorted(totals)
    }
    rare_first = sorted(holders.values(), key=len)
    needed = [(names, part) for names in rare_first if len(names) >= 3 for part in ("test", "dev", "train")]
    wished = [(names, part) for names in rare_first if len(names) < 3 for part in ("train", "test")[: len(names)]]
    for demands in (wished + needed, needed):
        found = _satisfy(demands, {}, classes, [_SEARCH_STEPS])
        if found is not None:
            return found
    raise DatasetError(
        "the rarest ratings share too few groups (patients, repeated texts) to be in train, dev and "
        "test; add rows of them, or merge rare ratings in the mapping"
    )


def _satisfy(
    demands: Sequence[tuple[Sequence[str], str]],
    part_of: dict[str, str],
    classes: Mapping[str, Counter[int]],
    steps: list[int],
) -> dict[str, str] | None:
    """Depth-first: each demand (one of these groups in this part) by its first free group that leaves a way on."""
    for place, (names, part) in enumerate(demands):
        if any(part_of.get(name) == part for name in names):
            continue
        for name in names:
            if name not in part_of and steps[0] > 0:
                steps[0] -= 1
                found = _satisfy(demands[place + 1 :], {**part_of, name: part}, classes, steps)
                if found is not None:
                    return found
        return None
    return _fill_empty_parts(classes, part_of)


def _fill_empty_parts(classes: Mapping[str, Counter[int]], part_of: dict[str, str]) -> dict[str, str] | None:
    """Give each part that has nothing the smallest free group; None where there is none."""
    part_of = dict(part_of)
    free = sorted((name for name in classes if name not in part_of), key=lambda name: classes[name].total())
    for part in PARTS:
        if part not in part_of.values():
            if not free:
                return None
            part_of[free.pop(0)] = part
    return part_of
