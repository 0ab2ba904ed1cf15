"""Prompts from the columns of raw records, and the template with which the prompts of a file were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cells import BROKEN_TEXT, filled
from .columns import field_name, find_column
from .scale import RatingScale

RECORD = "\n\nRecord:\n"


@dataclass(frozen=True)
class PromptField:
    """A column and its name in the prompt."""

    name: str
    column: str


@dataclass(frozen=True)
class PromptTemplate:
    """A constant beginning (task with the topics, rating schema), then a line for each field that is filled in."""

    beginning: str
    fields: tuple[PromptField, ...]

    def text(self, cells: Mapping[str, Any]) -> str:
        known = (f"{field.name}: {text}" for field in self.fields if (text := filled(cells, field.column)))
        return self.beginning + "\n".join(known)

    def fault(self, cells: Mapping[str, Any]) -> str | None:
        """Return why no prompt can be made from a record, None if one can."""
        own = [(field.column, cells.get(field.column)) for field in self.fields]
        for column, cell in own:
            if isinstance(cell, (list, dict, bytes)):
                return f"{column} is not a string but {type(cell).__name__}"
            if isinstance(cell, str) and BROKEN_TEXT.search(cell):
                return f"{column} contains a NUL or broken character"
        if not any(filled(cells, column) for column, _ in own):
            return f"{', '.join(column for column, _ in own)} are all blank"
        return None

    def missing(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the fields' columns that another file lacks."""
        return tuple(field.column for field in self.fields if find_column(columns, (field.column,)) is None)

    def for_columns(self, columns: Sequence[str]) -> PromptTemplate:
        """Return the same template for a file whose columns may be spelled differently (case, blanks, underscores)."""
        fields = (PromptField(each.name, find_column(columns, (each.column,)) or each.column) for each in self.fields)
        return PromptTemplate(self.beginning, tuple(fields))


def make_template(columns: Sequence[str], scale: RatingScale, topics: str) -> PromptTemplate:
    """Make the template for these text columns; task and schema come first, so that a server caches them as prefix."""
    schema = [f"{value} = {label}" for label, value in zip(scale.labels, scale.values, strict=True)]
    beginning = "\n".join([f"Task: Rate this record for: {topics}.", "", "Rating schema:", *schema]) + RECORD
    names = [field_name(column) for column in columns]
    fields = (
        PromptField(name if names.count(name) == 1 else column, column)
        for name, column in zip(names, columns, strict=True)
    )
    return PromptTemplate(beginning, tuple(fields))


def recover_template(
    prompts: Sequence[str], records: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> PromptTemplate | None:
    """Find the template of prompts that `expertune format` made, by the lines of the prompts themselves.

    It is returned only if it gives every prompt again, letter by letter; None for prompts that were made otherwise.
    """
    beginning, record, _ = prompts[0].partition(RECORD)
    beginning += record
    if not record or not all(prompt.startswith(beginning) for prompt in prompts):
        return None
    column_of = {name: column for column in reversed(columns) for name in (column, field_name(column))}
    orders = [
        [name for line in prompt[len(beginning) :].split("\n") if (name := line.partition(": ")[0]) in column_of]
        for prompt in prompts
    ]
    orders.sort(key=len, reverse=True)  # the fullest records show the order of most fields
    names = dict.fromkeys(name for order in orders for name in order)
    template = PromptTemplate(beginning, tuple(PromptField(name, column_of[name]) for name in names))
    made = (template.text(cells) for cells in records)
    return template if all(text == prompt for text, prompt in zip(made, prompts, strict=True)) else None
