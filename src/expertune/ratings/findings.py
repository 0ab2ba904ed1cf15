"""The finding, what the audit makes of a fault: what, how many, the first ids, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .schema import Rating

_SHOWN_IDS = 20

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """A fault of `count` rows (or classes); `row_ids` are the first 20 of them. `message` says what to do."""

    kind: str
    severity: Severity
    count: int
    row_ids: tuple[str, ...]
    message: str


def finding_of(kind: str, severity: Severity, ratings: Iterable[Rating], message: str) -> Iterator[Finding]:
    """Yield a finding about these rows, or nothing if there are none. {n} in the message is their number."""
    ids = tuple(rating.id for rating in ratings)
    if ids:
        yield Finding(kind, severity, len(ids), ids[:_SHOWN_IDS], message.replace("{n}", str(len(ids))))
