"""Read the ratings of several experts from their columns, and the labels on which they settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DatasetError, UsageError
from .cells import as_text, filled, for_error, identifier, is_blank
from .columns import ADJUDICATED, Columns
from .experts import ExpertRatings
from .read import Table, check_text, rating_values, read_table, record_ids
from .scale import RatingScale
from .tables import Row

ID, COMMENT = "id", "comment"  # columns of an adjudication list, with ADJUDICATED and the experts'


def read_experts(table: Table, columns: Columns, scale: RatingScale, prompts: Sequence[str]) -> ExpertRatings:
    """The ratings of several experts, with the labels on which they settled.

    An expert need not have rated every record, but each record needs a rating. Raises DatasetError as `rating_values`,
    and for an adjudication list of other records.
    """
    by_expert = [_values(table, column, scale, columns) for column in columns.experts]
    reasons = columns.by_expert.get("rationale", (*filter(None, [columns.get("rationale")]),))
    for column in reasons:
        check_text(table, column, needed=False)
    records, patient = [cells for _, cells in table.records], columns.get("patient")
    ids, _ = record_ids(table, columns.get("id"))
    settled = columns.get(ADJUDICATED)
    panel = ExpertRatings(
        experts=columns.experts,
        ids=tuple(ids),
        own_ids=columns.get("id") is not None and ids == [identifier(cells, columns.get("id")) for cells in records],
        prompts=tuple(prompts),
        values=tuple(zip(*by_expert, strict=True)),
        rationales=tuple(tuple(filled(cells, column) for column in reasons) for cells in records),
        adjudicated=tuple(_values(table, settled, scale, columns) if settled else [None] * len(ids)),
        groups=tuple(identifier(cells, patient) or ("row", id) for cells, id in zip(records, ids, strict=True)),
    )
    if columns.adjudication:
        panel = replace(panel, adjudicated=_from_list(columns.adjudication, panel, scale))
    _check(table, panel)
    return panel


def _values(table: Table, column: str, scale: RatingScale, columns: Columns) -> list[int | None]:
    """The value of every record, None where the cell is blank."""
    raw = columns.in_codes(column)
    rated = _filled_in(table.records, column, scale.standardize if raw else scale.value_of)
    values = rating_values(replace(table, records=rated), column, scale, raw=raw)
    by_row = dict(zip((row for row, _ in rated), values, strict=True))
    return [by_row.get(row) for row, _ in table.records]


def _filled_in(rows: Sequence[Row], column: str, value_of: Callable[[Any], int | None]) -> tuple[Row, ...]:
    """The rows with a rating; a label of the mapping may be "None" or "NA"."""
    cells = ((row, row[1].get(column)) for row in rows)
    return tuple(row for row, cell in cells if not is_blank(cell) or value_of(cell) is not None)


def _check(table: Table, panel: ExpertRatings) -> None:
    """Raise DatasetError for records that nobody rated, an expert who rated none, and experts who agree on none."""
    given = zip(table.records, panel.values, panel.adjudicated, strict=True)
    nobody = [row for (row, _), values, settled in given if {settled, *values} == {None}]
    if nobody:
        raise table.fault(nobody, None, f"no rating in {', '.join(panel.experts)}; rate the row or remove it")
    for expert, values in zip(panel.experts, zip(*panel.values, strict=True), strict=True):
        if all(value is None for value in values):
            raise table.fault([], expert, "no rating in any row; leave the column out of --column rating=…")
    if len(panel.tied()) == len(panel.ids):
        raise DatasetError(
            f"{table.source}: the experts are tied on all {len(panel.ids)} records, so that none has a label; write an "
            "adjudication list with expertune check --adjudicate FILE, fill it in and name it with --column "
            f"{ADJUDICATED}=FILE"
        )


def _from_list(path: Path, panel: ExpertRatings, scale: RatingScale) -> tuple[int | None, ...]:
    """The labels of a filled adjudication list, by record. Raises DatasetError where it is not of these records."""
    if not panel.own_ids:
        raise UsageError(
            f"{path}: an adjudication list is matched by id, and the records have no unique ids; name their column "
            "with --column id=NAME"
        )
    table = read_table(path)
    found, wanted = table.need((ID,)), table.need((ADJUDICATED,))
    filled_in = _filled_in(table.records, wanted, scale.value_of)
    rows = tuple((row, {**cells, ID: _plain(identifier(cells, found))}) for row, cells in filled_in)
    listed = replace(table, records=rows, id_column=ID)
    place = {id: at for at, id in enumerate(panel.ids)}
    settled: dict[int, int] = {}
    for (row, cells), value in zip(rows, rating_values(listed, wanted, scale), strict=True):
        at = place.get(cells[ID])
        if at is None or not _is_of(cells, panel, at, scale):
            problem = "is not an id of the rated file" if at is None else "has other ratings than in the rated file"
            raise table.fault([row], found, f"{for_error(cells[ID])} {problem}; write the list again with --adjudicate")
        if settled.setdefault(at, value) != value:
            raise table.fault([row], found, f"{for_error(cells[ID])} is adjudicated twice, differently; keep one")
    return tuple(settled.get(at) for at in range(len(panel.ids)))


def _is_of(cells: Mapping[str, Any], panel: ExpertRatings, at: int, scale: RatingScale) -> bool:
    """True if the experts' ratings in a row of a list are those of the record: it was not sorted or taken elsewhere."""
    there = [expert for expert in panel.experts if expert in cells]
    values = dict(zip(panel.experts, panel.values[at], strict=True))
    return all(scale.value_of(_plain(as_text(cells[expert]))) == values[expert] for expert in there)


def _plain(text: str) -> str:
    """A cell without the apostrophe that keeps a spreadsheet from converting it."""
    return text.strip().removeprefix("'")
