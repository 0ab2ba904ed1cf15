"""Names of the columns that are read, and the columns by which results are reported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import UsageError
from .schema import Rating

# Accepted names of each column; case, spaces and underscores do not matter.
PROMPT = ("Prompt", "formatted_prompt")
VALUE = ("Standardized_Rating",)
RATIONALE = ("Rationale of Rating",)
ROW_ID = ("Row_ID",)
PATIENT = ("C_BioSense_ID",)


def folded(name: str) -> str:
    """Return a column name without the differences in case, spaces and underscores."""
    return re.sub(r"[\s_]+", "_", name.strip()).casefold()


def check_columns(rows: Sequence[Rating], columns: Sequence[str]) -> None:
    """Raise UsageError for a requested column that the rating file does not have."""
    known = columns_of(rows)
    for name in columns:
        if folded(name) not in known:
            others = f"it has {', '.join(sorted(known.values()))}" if known else "it has only the required columns"
            raise UsageError(f"subgroups: the rating file has no column {name!r}; {others}")


def columns_of(rows: Sequence[Rating]) -> dict[str, str]:
    """Map the folded name of each extra column to the name in the file."""
    return {folded(column): column for row in rows for column in row.extra}
