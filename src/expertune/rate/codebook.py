"""Describe the columns of rated records in a codebook next to them."""

from __future__ import annotations

from pathlib import Path

from ..files import csv_text, write_text
from ..ratings.records import RecordFile
from .columns import (
    BETWEEN,
    CONFIDENCE,
    DISAGREEMENT,
    ERROR,
    LABEL,
    RATING,
    RATIONALE,
    REASONS,
    REVIEW_REASONS,
    SET,
    Wanted,
    share_columns,
    valid_name,
)
from .writer import BYTE_ORDER_MARK, column_kind

HEAD = ("name", "type", "label", "values", "valid_name")
TYPES = {int: "integer", float: "number", str: "text", bool: "boolean"}
LABELS = {
    RATING: "Rating, as a number",
    LABEL: "Rating, in words",
    CONFIDENCE: "Probability of the most likely rating",
    SET: f'Ratings that cannot be ruled out, with "{BETWEEN}" between them; empty also if the run has no conformal set',
    REASONS: f'Why a person should check the record, with "{BETWEEN}" between the reasons; empty if there is none',
    DISAGREEMENT: "The members of the model set would rate differently",
    RATIONALE: "The model's reason for its rating",
    ERROR: "Why the record has no rating; empty if it has one",
}


def codebook_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_codebook.csv")


def write_codebook(output: Path, records: RecordFile, wanted: Wanted, *, excel: bool = False) -> Path:
    """Write a row for each column of `output`, mode 0600; with a byte order mark for `excel`. Raises OutputError.

    `valid_name` is the column's name as R, SAS and Stata take it, different from all the others.
    """
    path, taken = codebook_path(output), set[str]()
    added = _added(wanted)
    for name, *_ in added:
        valid_name(name, taken)  # these are valid already, so no other column may have them
    own = [(*row, valid_name(row[0], taken)) for row in _own(records)]
    table = csv_text([HEAD, *own, *((*row, row[0]) for row in added)])
    write_text(path, (BYTE_ORDER_MARK if excel else "") + table)
    return path


def _own(records: RecordFile) -> list[tuple[str, str, str, str]]:
    """The columns of the input; nothing of what is in them."""
    made = dict.fromkeys(records.made, "Text that was rated, made from the record's columns")
    own = dict.fromkeys(records.columns, "Column of the rated file")
    return [(name, _type(records, name), label, "") for name, label in (own | made).items()]


def _type(records: RecordFile, column: str) -> str:
    if records.path.suffix.lower() != ".parquet":
        return TYPES[column_kind(records.kinds.get(column, frozenset()))]
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(records.path)
    return str(schema.field(column).type) if column in schema.names else TYPES[str]


def _added(wanted: Wanted) -> list[tuple[str, str, str, str]]:
    scale = wanted.scale
    coded = zip(scale.values, scale.labels, strict=True)
    values = {
        RATING: "; ".join(f"{value} = {label}" for value, label in coded),
        **dict.fromkeys((LABEL, SET), "; ".join(scale.labels)),
        REASONS: "; ".join(REVIEW_REASONS),
        DISAGREEMENT: "0 = no; 1 = yes",
        CONFIDENCE: "0 to 1",
    }
    shares = {name: f"Probability of {label}" for label, name in share_columns(scale).items()}
    labels, values = LABELS | shares, values | dict.fromkeys(shares, "0 to 1")
    return [(name, TYPES[kind], labels[name], values.get(name, "")) for name, kind in wanted.columns().items()]
