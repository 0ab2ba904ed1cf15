"""The records that travel through the pipeline. All frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rating:
    """One row that an expert rated.

    `row` is the row's number in its file as a person counts it (header = 1, first row = 2; JSONL lines from 1).
    `group` is the patient's id where there is one: rows of one patient stay in one split.
    `extra` keeps every other column as text, for strata and for the user.
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
class Split:
    """Train, dev and test rows; no text, near-duplicate text or patient is in two of them.

    `groups` maps each row's id to the id of its group: the unit of the split and of the cluster bootstrap.
    """

    train: tuple[Rating, ...]
    dev: tuple[Rating, ...]
    test: tuple[Rating, ...]
    groups: Mapping[str, str]
    seed: int

    def parts(self) -> dict[str, tuple[Rating, ...]]:
        return {"train": self.train, "dev": self.dev, "test": self.test}


@dataclass(frozen=True)
class Example:
    """A rating as chat messages and the answer that the model should give.

    `messages` are {"role", "content"} mappings without the assistant's turn; `target` is that turn's text.
    """

    id: str
    split: str
    messages: tuple[Mapping[str, str], ...]
    target: str
    label: str
    value: int
