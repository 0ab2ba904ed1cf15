"""Formats of the report: JSON-safe values, and figures as text for people."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from ...files import size_text
from ...progress import duration_text

UNDEFINED = "–"


def plain(value: Any) -> Any:
    """Convert to what JSON holds: lists, strings as keys, null for figures that are not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def number(value: Any, digits: int = 3) -> str:
    """Format a figure; a dash where it is undefined."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else UNDEFINED


def percent(value: Any) -> str:
    """Format a share to three figures; to two where it is below 10 %."""
    if not isinstance(value, (int, float)):
        return UNDEFINED
    return f"{100 * value:.{3 if value >= 0.1 else 2}g} %"


def span(estimate: Any, digits: int = 3) -> str:
    """Format the interval of an Estimate's or a Difference's mapping; an empty string where there is none."""
    interval = estimate.get("interval") if isinstance(estimate, Mapping) else None
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}" if interval else ""


def size(value: Any) -> str:
    """Format bytes: 4.7 MB."""
    return size_text(value) if isinstance(value, (int, float)) else UNDEFINED


def duration(value: Any) -> str:
    """Format seconds: 4.2 s, 12 min 9 s, 2 h 5 min."""
    return duration_text(value) if isinstance(value, (int, float)) else UNDEFINED


def facts(section: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value as text) of a nested mapping, in its order; lists of plain values on one line."""
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
