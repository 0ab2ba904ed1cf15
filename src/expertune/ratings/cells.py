"""Convert the cells of a table to text and recognise blank ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BLANK = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat"}  # missing values as other tools write them
BROKEN_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL and unpaired surrogates


def as_text(cell: Any) -> str:
    """Convert a cell to text; "" for None, NaN and their like.

    34.0 becomes "34": pandas turns a whole column to floats where one cell is empty.
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = str(cell)
    return "" if is_blank_text(text) else text


def is_blank(cell: Any) -> bool:
    return is_blank_text(as_text(cell))


def is_blank_text(text: str) -> bool:
    return text.strip().casefold() in BLANK


def filled(record: Mapping[str, Any], column: str | None) -> str:
    """Return a cell as stripped text; "" for a blank cell and for a missing column."""
    cell = record.get(column) if column else None
    return "" if is_blank(cell) else as_text(cell).strip()


def for_error(cell: Any, longest: int = 24) -> str:
    """Return a cell as an error message may show it.

    A long text is likely to come from a shifted cell, so only its length is given: no message shows a record's text.
    """
    text = as_text(cell)
    return text if len(text) <= longest and text.isprintable() else f"a text of {len(text)} characters"
