"""Convert a raw export of visits, rated or not, to the formatted dataset: one prompt a row, and its rating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError
from .cells import filled, identifier
from .columns import (
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
from .prompts import make_template
from .read import make_prompts, rating_values, read_table
from .scale import RatingScale

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Formatted:
    """The rows of formatted_dataset.csv, which columns they come from, and messages for the user."""

    frame: pandas.DataFrame
    columns: Columns
    notes: tuple[str, ...]


def format_raw(
    path: Path, scale: RatingScale, topics: str, choices: Sequence[str] = (), *, sheet: str = ""
) -> Formatted:
    """Make the rows of a raw file: the columns of formatted_dataset.csv first, the other columns after them.

    `choices` are "ROLE=NAME" (columns.py), `sheet` is that of an Excel file. Without a rating column the rows have no
    rating.
    Raises DatasetError as the reader does, and if the file has no column to make prompts from.
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
    values = rating_values(table, value, scale, raw=True) if value else ()
    ours = {names[0] for names in ROLES.values()}
    kept = [column for column in table.columns if column not in {*columns.roles.values(), *ours}]
    rows = []
    for place, (_, record) in enumerate(table.records):
        row: dict[str, Any] = {ROW_ID[0]: identifier(record, columns.get("id")) or str(place + 1)}
        if patient:
            row[PATIENT[0]] = identifier(record, patient)
        row[PROMPT[0]] = prompts[place]
        if value:
            row[VALUE[0]] = values[place]
        if value or rationale:
            row[RATIONALE[0]] = filled(record, rationale)
        rows.append({**row, **{column: filled(record, column) for column in kept}})
    return Formatted(pandas.DataFrame(rows), columns, (*table.notes, *_notes(columns)))


def _notes(columns: Columns) -> list[str]:
    notes = [str(columns)]
    if columns.get("rating") is None:
        wanted = ", ".join(VALUE)
        notes.append(f"no rating column ({wanted}): written without ratings; --column rating=NAME names one")
    elif columns.get("patient") is None:
        notes.append(f"warning: {NO_PATIENT}")
    return notes
