"""Convert a raw export of visits, rated or not, to the formatted dataset: one prompt a row, and its rating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError, UsageError
from .adjudicated import read_experts
from .cells import filled, identifier
from .columns import (
    ADJUDICATED,
    FIELDS,
    NO_PATIENT,
    PATIENT,
    PROMPT,
    RATIONALE,
    ROLES,
    ROW_ID,
    VALUE,
    Columns,
    find_columns,
    listed,
)
from .experts import ExpertRatings
from .prompts import make_template
from .read import make_prompts, rating_values, read_table
from .scale import RatingScale
from .tables import CellsByColumn

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Formatted:
    """The rows of formatted_dataset.csv, which columns they come from, and messages for the user.

    `experts` has the ratings of several experts.
    """

    frame: pandas.DataFrame
    columns: Columns
    notes: tuple[str, ...]
    experts: ExpertRatings | None = None


def format_raw(
    path: Path, scale: RatingScale, topics: str, choices: Sequence[str] = (), *, sheet: str = ""
) -> Formatted:
    """Make the rows of a raw file: the columns of formatted_dataset.csv first, the other columns after them.

    `choices` are "ROLE=NAME" (columns.py), `sheet` is that of an Excel file. Without a rating column the rows have no
    rating; the columns of several experts are kept as they are, next to the label that most of them gave or on which
    they settled.
    Raises DatasetError as the reader does, and if the file has no column to make prompts from; UsageError for choices.
    """
    import pandas

    table = read_table(path, sheet)
    columns = find_columns(table.source, table.columns, choices, raw=True)
    if not columns.text:
        wanted = ", ".join(names[0] for names in FIELDS.values())
        has = f"it has: {listed(table.columns)}; or name one with --column text=NAME"
        raise DatasetError(f"{table.source}: a prompt needs one of {wanted}; {has}")
    value, rationale, patient = map(columns.get, ("rating", "rationale", "patient"))
    table = replace(table, id_column=columns.get("id"))
    prompts = make_prompts(table, make_template(columns.text, scale, topics))
    experts = read_experts(table, columns, scale, prompts) if columns.experts else None
    values = experts.kept() if experts else rating_values(table, value, scale, raw=True) if value else ()
    rationales = experts.kept_rationales() if experts else [filled(cells, rationale) for _, cells in table.records]
    ours = {*(names[0] for names in ROLES.values()), *([ADJUDICATED] if experts else [])}
    if taken := [name for names in columns.by_expert.values() for name in names if name in ours]:
        raise UsageError(f'column: an expert\'s column "{taken[0]}" has the name of one that format writes; rename it')
    kept = [column for column in table.columns if column not in {*columns.roles.values(), *ours}]
    rows = []
    for place, (_, record) in enumerate(table.records):
        row: CellsByColumn = {ROW_ID[0]: identifier(record, columns.get("id")) or str(place + 1)}
        if patient:
            row[PATIENT[0]] = identifier(record, patient)
        row[PROMPT[0]] = prompts[place]
        if values:
            row[VALUE[0]] = values[place]
        if values or rationale:
            row[RATIONALE[0]] = rationales[place]
        if experts:
            row[ADJUDICATED] = experts.adjudicated[place]
        rows.append({**row, **{column: filled(record, column) for column in kept}})
    frame = pandas.DataFrame(rows)
    if experts:  # whole numbers although some are missing
        frame = frame.astype({VALUE[0]: "Int64", ADJUDICATED: "Int64"})
    return Formatted(frame, columns, (*table.notes, *_notes(columns, experts)), experts)


def _notes(columns: Columns, experts: ExpertRatings | None) -> list[str]:
    notes = [str(columns), *(experts.tied_note() if experts else ())]
    if experts:
        named = ",".join(experts.experts)
        notes.append(
            f"{VALUE[0]} is the label that most experts gave, or the adjudicated one; give check and tune the experts' "
            f'ratings with --column "rating={named}" --column {ADJUDICATED}={ADJUDICATED}'
        )
    elif columns.get("rating") is None:
        wanted = ", ".join(VALUE)
        notes.append(f"no rating column ({wanted}): written without ratings; --column rating=NAME names one")
    if columns.get("patient") is None and (experts or columns.get("rating")):
        notes.append(f"warning: {NO_PATIENT}")
    return notes
