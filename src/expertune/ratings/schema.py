"""The frozen records of the ratings: Rating, Split and Example, and values for each part of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

PARTS = ("train", "dev", "test")
Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Rating:
    """One row that an expert rated.

    `row` is the row number in the file as a person counts it (header = 1, first row = 2; JSON Lines from 1).
    `group` is the patient id, if there is one: the rows of one patient stay in one part of the split.
    `extra` keeps every other column as text, for the subgroups and for the user.
    """

    id: str
    row: int
    prompt: str
    value: int
    label: str
    rationale: str = ""
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UnratedRecord:
    """One row that nobody rated, of a file of its own. `id` names no row of the rating file; `extra` has its Row_ID."""

    id: str
    row: int
    prompt: str
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def id_order(id: str) -> tuple[int, str]:
    """Sort key of row ids: numbers in numeric order ("9" before "10")."""
    return len(id), id


@dataclass(frozen=True)
class BySplit(Generic[Value]):
    """A value for each part of the split."""

    train: Value
    dev: Value
    test: Value

    def parts(self) -> dict[str, Value]:
        """The values by the name of their part, in the order of PARTS."""
        return {part: getattr(self, part) for part in PARTS}

    def map(self, change: Callable[[Value], Other]) -> BySplit[Other]:
        return BySplit(change(self.train), change(self.dev), change(self.test))


@dataclass(frozen=True)
class Split(BySplit[tuple[Rating, ...]]):
    """Train, dev and test rows; no text, near-duplicate text or patient is in two of them.

    `groups` maps the id of each row to the id of its group, the unit of the split and of the cluster bootstrap.
    """

    groups: Mapping[str, str]
    seed: int


@dataclass(frozen=True)
class Example:
    """A rating as chat messages and the answer that the model should give.

    `messages` are {"role", "content"} mappings without the assistant's turn; `target` is the text of that turn.
    """

    id: str
    split: str
    messages: tuple[Mapping[str, str], ...]
    target: str
    label: str
    value: int

    @property
    def record(self) -> str:
        """Prompt of the rating: the user's message."""
        return self.messages[-1]["content"]

    @property
    def prompt_length(self) -> int:
        """Characters of all messages."""
        return sum(len(message["content"]) for message in self.messages)
