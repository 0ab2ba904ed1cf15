"""Format figures as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..evaluate.compare import Difference
from ..files import size_text
from ..progress import duration_text
from ..stats.intervals import Estimate

UNDEFINED = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Format a figure; a dash where it is undefined."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a share to three figures; to two where it is below 10 %."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{100 * value:.{3 if value >= 0.1 else 2}g} %"


def span(estimate: Estimate | Difference | None, digits: int = 3) -> str:
    """Format the interval of a figure; an empty string where there is none."""
    interval = estimate.interval if estimate else None
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}" if interval else ""


def size(value: float | None) -> str:
    """Format bytes: 4.7 MB."""
    return UNDEFINED if value is None or not math.isfinite(value) else size_text(value)


def duration(value: Any) -> str:
    """Format seconds: 4.2 s, 12 min 9 s, 2 h 5 min."""
    return duration_text(value) if isinstance(value, (int, float)) else UNDEFINED


def facts(section: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value as text) of a section's dump, in its order; lists of plain values on one line."""
    for key, value in section.items() if isinstance(section, Mapping) else ():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(each, (Mapping, list)) for each in value):
            for at, each in enumerate(value, start=1):
                yield from facts(each if isinstance(each, Mapping) else {"": each}, f"{name}.{at}.")
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or UNDEFINED
        elif value is None:
            yield name, UNDEFINED
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)
