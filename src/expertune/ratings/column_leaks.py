"""Find columns that predict the rating alone: a code, a date, a range of ids, a reviewer.

Such a column was often filled in after the rating, or the records of each rating were collected apart. Columns of free
text, those that records are usually rated by (columns.FIELDS), and the rating and rationale themselves are left out.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .cells import for_error, is_blank_text
from .columns import FIELDS, RATIONALE, VALUE, folded
from .findings import Finding, finding_of
from .schema import Rating

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR_ONE = 0.95  # balanced accuracy in cross-validation
# A column that has nothing to do with the rating gets there in less than one of 40,000 cases with so many groups
# (patients) on either side.
_FEWEST_GROUPS = 10
_SAMPLE = 5000  # records by which a column is judged
_FIELD_SHARE = 0.2  # of the prompts have a line "name: …" for it to count as a column
_FIELD = re.compile(r"^(?:[^\w\n]|_){0,9}([^\W_][^:=\n]{0,39}?)[\"'*\])]{0,3}[ \t]?[:=]([^\n]{1,60})$", re.MULTILINE)
_INPUTS = (*(name for names in FIELDS.values() for name in names), *FIELDS, "Diagnosis", "Triage")
_KNOWN = frozenset(map(folded, (*_INPUTS, *VALUE, *RATIONALE)))
_DATE = re.compile(r"(\d{1,2})([./-])(\d{1,2})[./-](\d{4})\b(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")

Cells = Sequence[str]


def column_leaks(ratings: Sequence[Rating]) -> Iterator[Finding]:
    """Yield a finding for each column of the file, id, patient id or field of the prompts that predicts a rating."""
    labels = Counter(rating.label for rating in ratings)
    if len(labels) < 2:
        return
    sample = list(ratings) if len(ratings) <= _SAMPLE else random.Random(0).sample(ratings, _SAMPLE)
    for name, (cells, in_prompt) in _columns(sample).items():
        if len(set(cells)) < 2 or _is_text(cells):
            continue
        for label in labels:
            share, right = _predicted(cells, sample, label)
            if share >= NEAR_ONE:
                yield from _finding(name, label, share, right, in_prompt=in_prompt, sampled=len(sample) < len(ratings))
                break


def _finding(
    name: str, label: str, share: float, right: Sequence[Rating], *, in_prompt: bool, sampled: bool
) -> Iterator[Finding]:
    advice = (
        "it is in the prompts: unless it is known before a record is rated, leave it out"
        if in_prompt
        else "it is not in the prompts; keep it out, and find out if the records of each rating were collected apart"
    )
    rows = f"{{n}} records rated {label}" + (f" of a sample of {_SAMPLE:,}" if sampled else "")
    yield from finding_of(
        "column_predicts_rating",
        "warning",
        right,
        f"{name} alone predicts the rating of {rows} (balanced accuracy {share:.2f} in cross-validation, by chance "
        f"0.50); {advice}",
    )


# --- columns ---


def _columns(ratings: Sequence[Rating]) -> dict[str, tuple[Cells, bool]]:
    """Collect the cells of each column by its name in messages, and whether they are in the prompts."""
    names = list(dict.fromkeys(column for rating in ratings for column in rating.extra))
    columns = {f"column {for_error(name, 40)}": [rating.extra.get(name, "") for rating in ratings] for name in names}
    if any(rating.id != str(rating.row) for rating in ratings):
        columns["the record id"] = [rating.id for rating in ratings]
    if any(rating.group for rating in ratings):
        columns["the patient id"] = [rating.group or "" for rating in ratings]
    found = {name: (cells, _in_prompts(cells, ratings)) for name, cells in columns.items() if not _is_known(name)}
    fields = {f'the line "{name}" of the prompts': (cells, True) for name, cells in _prompt_fields(ratings).items()}
    shown = {tuple(cells) for cells, in_prompt in found.values() if in_prompt}
    return {**found, **{name: field for name, field in fields.items() if tuple(field[0]) not in shown}}


def _is_known(name: str) -> bool:
    return folded(name.removeprefix("column ")) in _KNOWN


def _prompt_fields(ratings: Sequence[Rating]) -> Mapping[str, Cells]:
    """Collect what follows "name:" or "name =" in the lines of the prompts, for names that many prompts have."""
    fields = [dict(_FIELD.findall(rating.prompt)) for rating in ratings]
    counts = Counter(name for each in fields for name in each)
    return {
        name: [each.get(name, "").strip() for each in fields]
        for name, count in counts.items()
        if count >= _FIELD_SHARE * len(ratings) and not _is_known(name)
    }


def _in_prompts(cells: Cells, ratings: Sequence[Rating]) -> bool:
    filled = [(cell, rating.prompt) for cell, rating in zip(cells, ratings, strict=True) if not is_blank_text(cell)]
    return sum(_contains(prompt, cell.strip()) for cell, prompt in filled) > len(filled) / 2


def _contains(prompt: str, cell: str) -> bool:
    return cell in prompt and re.search(rf"(?<![^\W_]){re.escape(cell)}(?![^\W_])", prompt) is not None


def _is_text(cells: Cells) -> bool:
    """True for free text: mostly several words, which hardly repeat. A column of names or codes repeats them."""
    filled = [cell for cell in cells if not is_blank_text(cell)]
    words = sum(len(re.findall(r"[^\W\d_]{2,}", cell)) for cell in filled)
    return words >= 2 * len(filled) and len(set(filled)) ** 2 > len(filled)


# --- prediction ---


def _predicted(cells: Cells, ratings: Sequence[Rating], label: str) -> tuple[float, list[Rating]]:
    """Predict if a record has the label by its cell alone, in folds that keep a patient together.

    Returns the balanced accuracy, and the records of the label that are predicted. A cell that is not in the training
    folds is predicted by its two neighbours in natural order.
    """
    import numpy as np

    from ..stats.folds import FOLDS, group_folds

    groups = [rating.group or f"record {rating.id}" for rating in ratings]
    is_label_N = np.array([rating.label == label for rating in ratings])
    sides = ({group for group, own in zip(groups, is_label_N, strict=True) if own == side} for side in (True, False))
    if min(map(len, sides)) < _FEWEST_GROUPS:
        return 0.0, []
    place_N = _places(cells)
    fold_N = group_folds(groups, 0)
    predicted_N = np.zeros(len(ratings), dtype=bool)
    for fold in range(FOLDS):
        known_N = fold_N != fold
        predicted_N[~known_N] = _by_place(place_N[known_N], is_label_N[known_N], place_N[~known_N])
    recalls = (predicted_N[is_label_N].mean(), (~predicted_N[~is_label_N]).mean())
    right = [rating for rating, hit in zip(ratings, predicted_N & is_label_N, strict=True) if hit]
    return float(np.mean(recalls)), right


def _by_place(known_K: NDArray[np.intp], label_K: NDArray[np.bool_], asked_N: NDArray[np.intp]) -> NDArray[np.bool_]:
    import numpy as np

    places_P, index_K = np.unique(known_K, return_inverse=True)
    # the labels count as if both sides had as many records
    weight_K = np.where(label_K, 1 / max(1, label_K.sum()), -1 / max(1, (~label_K).sum()))
    lean_P = np.bincount(index_K, weights=weight_K)
    above_N = np.searchsorted(places_P, asked_N).clip(max=len(places_P) - 1)
    below_N = (above_N - 1).clip(min=0)
    exact_N = places_P[above_N] == asked_N
    lean_N = np.where(exact_N, lean_P[above_N], lean_P[above_N] + lean_P[below_N])
    return lean_N > 0


def _places(cells: Cells) -> NDArray[np.intp]:
    """Number the distinct cells in natural order: numbers and dates by size, ids by their parts."""
    import numpy as np

    folded = [cell.strip().casefold() for cell in cells]
    day_first = any(match[2] == "." or int(match[1]) > 12 for cell in set(folded) if (match := _DATE.match(cell)))
    keys = {cell: _order(cell, day_first=day_first) for cell in set(folded)}
    place_of = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    return np.array([place_of[keys[cell]] for cell in folded], dtype=np.intp)


def _order(cell: str, *, day_first: bool) -> tuple[tuple[int, float, str], ...]:
    if is_blank_text(cell):
        return ()
    if _NUMBER.fullmatch(cell):
        return ((0, float(cell.replace(",", ".")), ""),)
    if match := _DATE.match(cell):
        one, _, two, year, rest = match.groups()
        month, day = (two, one) if day_first else (one, two)
        cell = f"{year}-{month}-{day}{rest}"
    parts = re.findall(r"\d+|\D+", cell)
    return tuple((1, float(part), "") if part.isdecimal() else (2, 0.0, part) for part in parts)
