"""Convert the cells of a table to text and recognise blank ones."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from string import ascii_lowercase
from typing import Any

# Missing values as other systems write them: pandas and R, SAS and Stata (".", ".a" to ".z", "._"), databases, and
# Excel and SPSS with their errors (German, French and Spanish too). Case does not matter.
BLANK = {
    *("", "nan", "-nan", "none", "null", "(null)", "\\n", "na", "n/a", "<na>", "nat", "1.#ind", "1.#qnan"),
    *(".", "._", *(f".{letter}" for letter in ascii_lowercase)),
    *("#n/a", "#na", "#n/a n/a", "#null!", "#value!", "#ref!", "#div/0!", "#num!", "#name?", "#spill!", "#calc!"),
    *("#nv", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#nom?", "#nombre!", "#¡valor!", "#¿nombre?", "#sysmis"),
}
BROKEN_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL and unpaired surrogates


def as_text(cell: Any) -> str:
    """Convert a cell to text; "" for None, NaN and their like.

    34.0 becomes "34": pandas turns a whole column to floats where one cell is empty. A date becomes "2026-11-27", also
    where its type has a time of 00:00, as in pandas.
    """
    if isinstance(cell, str):
        return cell
    is_number = isinstance(cell, (numbers.Real, Decimal)) and not isinstance(cell, bool)
    if is_number and (whole := as_whole(cell)) is not None:
        return str(whole)
    text = f"{cell:f}" if isinstance(cell, Decimal) else str(cell)  # never 1E-7
    if isinstance(cell, datetime):
        text = text.removesuffix(" 00:00:00")
    return "" if is_blank_text(text) else text


def as_whole(number: Any) -> int | None:
    """Return a number of any type (Decimal and NumPy's too) as int if it is whole, else None."""
    return int(number) if math.isfinite(number) and number == int(number) else None


def is_blank(cell: Any) -> bool:
    return is_blank_text(as_text(cell))


def is_blank_text(text: str) -> bool:
    return text.strip().casefold() in BLANK


def filled(record: Mapping[str, Any], column: str | None) -> str:
    """Return a cell as stripped text; "" for a blank cell and for a missing column."""
    cell = record.get(column) if column else None
    return "" if is_blank(cell) else as_text(cell).strip()


def identifier(record: Mapping[str, Any], column: str | None) -> str:
    """Return an id as stripped text: "1000.0" is "1000", as a column of numbers with one empty cell is exported."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", filled(record, column))


def for_error(cell: Any, longest: int = 24) -> str:
    """Return a cell as an error message may show it.

    A long text is likely to come from a shifted cell, so only its length is given: no message shows a record's text.
    """
    text = as_text(cell)
    return text if len(text) <= longest and text.isprintable() else f"a text of {len(text)} characters"
