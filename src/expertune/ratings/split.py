"""Split ratings into train, dev and test: grouped, stratified by rating, reproducible by the seed."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from ..errors import DatasetError
from .columns import ROW_ID
from .near_duplicates import Duplicates
from .schema import PARTS, BySplit, Rating, Split, UnratedRecord, id_order

_SEARCH_STEPS = 20_000

Classes = Mapping[str, Counter[int]]  # group → number of its ratings by value, in the order given by the seed
Demand = tuple[Sequence[str], str]  # one of these groups must be in this part


def group_ratings(ratings: Sequence[Rating | UnratedRecord], duplicates: Duplicates) -> dict[str, str]:
    """Map row id to group id: rows of one patient, of one Row_ID, or with (nearly) the same text form a group.

    `duplicates` are those of the same ratings. The id of a group is the first of its rows' ids, so it does not depend
    on the order of the rows.
    """
    owners: dict[object, list[int]] = defaultdict(list)
    for i, rating in enumerate(ratings):
        if rating.group:
            owners["patient", rating.group].append(i)
        # where Row_ID repeats, the reader uses other ids and keeps it in `extra`
        if rating.extra.get(ROW_ID[0]):
            owners["row", rating.extra[ROW_ID[0]]].append(i)
    links = [(rows[0], i) for rows in (*owners.values(), *duplicates.same) for i in rows[1:]]
    components = _components(len(ratings), [*links, *duplicates.near])
    first: dict[int, str] = {}
    for rating, component in zip(ratings, components, strict=True):
        first[component] = min(first.get(component, rating.id), rating.id, key=id_order)
    return {rating.id: first[component] for rating, component in zip(ratings, components, strict=True)}


def _components(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the connected component of each of `count` nodes."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends_L2 = np.array(links, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends_L2)), (ends_L2[:, 0], ends_L2[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()


def split(
    ratings: Sequence[Rating], duplicates: Duplicates, *, dev_share: float, test_share: float, seed: int
) -> Split:
    """Split the rows into three parts; each class is as near its shares as the groups allow.

    A class with three or more groups is in all three parts. The same ids, texts and seed give the same split in
    whatever order the rows come; each part is sorted by id. `duplicates` are those of the same ratings.
    Raises DatasetError for a single class, fewer than three groups, repeated ids, or a group too large to split.
    """
    rows = sorted(ratings, key=lambda rating: id_order(rating.id))
    _check_rows(rows)
    group_of_id = group_ratings(ratings, duplicates)
    groups = {rating.id: group_of_id[rating.id] for rating in rows}
    members: dict[str, list[Rating]] = defaultdict(list)
    for rating in rows:
        members[groups[rating.id]].append(rating)
    shares = BySplit(1 - dev_share - test_share, dev_share, test_share)
    _check_groups(members, len(rows), shares)
    names = sorted(members, key=id_order)
    random.Random(seed).shuffle(names)
    classes = {name: Counter(rating.value for rating in members[name]) for name in names}
    part_of = _allocate(classes, shares)
    parts = {part: tuple(rating for rating in rows if part_of[groups[rating.id]] == part) for part in PARTS}
    return Split(**parts, groups=groups, seed=seed)


def _check_rows(rows: Sequence[Rating]) -> None:
    repeated = [rating.id for rating, after in pairwise(rows) if rating.id == after.id]
    if repeated:
        raise DatasetError(f"duplicate row id {repeated[0]}; give each row its own id")
    labels = sorted({rating.label for rating in rows})
    if len(labels) < 2:
        raise DatasetError(
            f"all {len(rows)} rows are rated {', '.join(labels) or 'nothing'}; "
            "at least two classes are needed: rate rows of another class too"
        )


def _check_groups(members: Mapping[str, Sequence[Rating]], rows: int, shares: BySplit[float]) -> None:
    largest = max(members, key=lambda name: len(members[name]))
    size = len(members[largest])
    remedy = "correct the patient ids, remove repeated texts, raise near_duplicate_threshold, or add rows of others"
    if len(members) < len(PARTS):
        raise DatasetError(
            f"the {rows} rows are only {len(members)} separate groups (same patient, same or nearly the "
            f"same text), too few for train, dev and test; {remedy}"
        )
    # such a group fits only in train, and would leave dev and test with less than half of their shares
    if rows - size < rows * (1 - shares.train) / 2:
        raise DatasetError(
            f"{size} of {rows} rows are one group (same patient, same or nearly the same text; "
            f"first id {largest}) and must stay together, which leaves too little to test on; {remedy}"
        )


def _allocate(classes: Classes, shares: BySplit[float]) -> dict[str, str]:
    """Map group to part by iterative stratification (Sechidis et al. 2011).

    First each class gets its fewest groups in each part. The other groups follow, those of the rarest class first and
    the largest of them first, each to the part that lacks its classes most.
    """
    totals = sum(classes.values(), Counter())
    part_of = _required_groups(classes, totals)
    missing = {part: {value: share * totals[value] for value in totals} for part, share in shares.parts().items()}
    for name, part in part_of.items():
        _take(missing[part], classes[name])
    rarity = {value: rank for rank, value in enumerate(sorted(totals, key=lambda value: (totals[value], value)))}
    remaining = [name for name in classes if name not in part_of]
    remaining.sort(key=lambda name: (min(rarity[value] for value in classes[name]), -classes[name].total()))
    for name in remaining:
        part_of[name] = _neediest(missing, classes[name])
        _take(missing[part_of[name]], classes[name])
    return part_of


def _take(missing: dict[int, float], counts: Mapping[int, int]) -> None:
    """Subtract the ratings that a part receives from those that it lacks."""
    for value, count in counts.items():
        missing[value] -= count


def _neediest(missing: Mapping[str, Mapping[int, float]], counts: Mapping[int, int]) -> str:
    """Return the part that comes nearest to its shares by these ratings; of equal ones, that which lacks most rows."""
    return max(PARTS, key=lambda part: (_gain(missing[part], counts), sum(missing[part].values())))


def _gain(missing: Mapping[int, float], counts: Mapping[int, int]) -> float:
    """Decrease of the squared distance to the shares when a part receives these ratings."""
    return sum(missing[value] ** 2 - (missing[value] - count) ** 2 for value, count in counts.items())


def _required_groups(classes: Classes, totals: Mapping[int, int]) -> dict[str, str]:
    """Choose the fewest, smallest groups with which each class of three or more groups is in each part.

    If possible, a class of two groups is in train and test and a class of one group in train; no part is empty.
    Raises DatasetError where classes share their groups in a way that allows no such choice.
    """
    by_size = sorted(classes, key=lambda name: classes[name].total())
    holders = [[name for name in by_size if value in classes[name]] for value in sorted(totals)]
    rare_first = sorted(holders, key=len)
    needed = [(names, part) for names in rare_first if len(names) >= 3 for part in ("test", "dev", "train")]
    wished = [(names, part) for names in rare_first if len(names) < 3 for part in ("train", "test")[: len(names)]]
    for demands in (wished + needed, needed):
        found = _search(demands, by_size)
        if found is not None:
            return found
    raise DatasetError(
        "the rarest ratings share too few groups (patients, repeated texts) to be in train, dev and "
        "test; add rows of them, or merge rare ratings in the mapping"
    )


def _search(demands: Sequence[Demand], by_size: Sequence[str]) -> dict[str, str] | None:
    """Meet all demands by depth-first search over their free groups, in at most _SEARCH_STEPS steps."""
    stack: list[Iterator[tuple[int, dict[str, str]]]] = [iter([(0, {})])]  # untried (next demand, group → part)
    steps = 0
    while stack and steps <= _SEARCH_STEPS:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        steps += 1
        place, part_of = node
        while place < len(demands) and _is_met(demands[place], part_of):
            place += 1
        if place < len(demands):
            stack.append(_choices(demands[place], place + 1, part_of))
        elif (found := _fill_empty_parts(part_of, by_size)) is not None:
            return found
    return None


def _is_met(demand: Demand, part_of: Mapping[str, str]) -> bool:
    names, part = demand
    return any(part_of.get(name) == part for name in names)


def _choices(demand: Demand, place: int, part_of: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the ways to meet a demand by a free group, smallest first."""
    names, part = demand
    return ((place, {**part_of, name: part}) for name in names if name not in part_of)


def _fill_empty_parts(part_of: Mapping[str, str], by_size: Sequence[str]) -> dict[str, str] | None:
    """Give each part without a group the smallest free one; None if there is none left."""
    filled = dict(part_of)
    free = iter([name for name in by_size if name not in part_of])
    for part in PARTS:
        if part not in filled.values():
            name = next(free, None)
            if name is None:
                return None
            filled[name] = part
    return filled
