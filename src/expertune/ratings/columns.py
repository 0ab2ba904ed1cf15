"""Find the columns by which results are reported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import UsageError
from .schema import Rating


def check_columns(rows: Sequence[Rating], columns: Sequence[str]) -> None:
    """Raises UsageError where a column is asked for that the rating file has not."""
    there = columns_of(rows)
    for name in columns:
        if folded(name) not in there:
            known = f"it has {', '.join(sorted(there.values()))}" if there else "it has none beside the needed ones"
            raise UsageError(f"subgroups: the rating file has no column {name!r}; {known}")


def columns_of(rows: Sequence[Rating]) -> dict[str, str]:
    return {folded(column): column for row in rows for column in row.extra}


def folded(name: str) -> str:
    return re.sub(r"[\s_]+", "_", name.strip()).casefold()
