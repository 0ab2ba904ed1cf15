"""Convert a raw export of rated visits to the formatted dataset: one prompt and one standardized rating a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError
from .cells import filled, identifier
from .columns import PATIENT, RATIONALE, ROW_ID, VALUE
from .read import Table, check_text, rating_values, read_table
from .scale import RatingScale

if TYPE_CHECKING:
    import pandas

RAW_VALUE = ("Standardized_Rating", "Expert Rating", "Rating")
RAW_RATIONALE = (*RATIONALE, "Expert Rationale", "Rationale")
# The fields of a prompt, in their order. Only known columns: any other could contain the rating itself.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "Chief complaint": ("ChiefComplaintOrig", "Chief Complaint", "ChiefComplaint", "ChiefComplaintParsed"),
    "Discharge diagnosis": ("Discharge Diagnosis", "DischargeDiagnosis", "Diagnosis_Combo"),
    "Age": ("Age", "Age_Years"),
    "Sex": ("Sex", "Gender"),
    "Clinical impression": ("ClinicalImpression", "Clinical Impression"),
    "Admit reason": ("Admit_Reason_Combo", "AdmitReason"),
    "Triage notes": ("TriageNotes", "TriageNotesOrig", "Triage Notes"),
}


def format_raw(path: Path, scale: RatingScale, topics: str) -> pandas.DataFrame:
    """Return the rows of a raw file: the columns of formatted_dataset.csv first, the other columns after them.

    Raises DatasetError as the reader does, and if the file has no column of FIELDS.
    """
    import pandas

    table = read_table(path)
    value, rationale = table.need(RAW_VALUE), table.find(RAW_RATIONALE)
    fields = {name: column for name, columns in FIELDS.items() if (column := table.find(columns))}
    if not fields:
        wanted = ", ".join(columns[0] for columns in FIELDS.values())
        raise DatasetError(f"{table.source}: a prompt needs one of {wanted}; it has: {table.names()}")
    for column in fields.values():
        check_text(table, column, needed=False)
    values = rating_values(table, value, scale, raw=True)
    ids, patient = table.find(ROW_ID), table.find(PATIENT)
    used = {value, rationale, ids, patient, "Prompt"}
    kept = [column for column in table.columns if column not in used]
    rows = []
    for place, (_, record) in enumerate(table.records):
        row: dict[str, Any] = {ROW_ID[0]: identifier(record, ids) or str(place + 1)}
        if patient:
            row[PATIENT[0]] = identifier(record, patient)
        row["Prompt"] = _prompt(record, fields, scale, topics)
        row[VALUE[0]], row[RATIONALE[0]] = values[place], filled(record, rationale)
        rows.append({**row, **{column: filled(record, column) for column in kept}})
    _check_records(table, fields)
    return pandas.DataFrame(rows)


def _check_records(table: Table, fields: Mapping[str, str]) -> None:
    empty = [row for row, record in table.records if not any(filled(record, column) for column in fields.values())]
    if empty:
        raise table.fault(empty, None, f"{', '.join(fields.values())} are all blank; fill one in or remove the row")


def _prompt(record: Mapping[str, Any], fields: Mapping[str, str], scale: RatingScale, topics: str) -> str:
    """Build a prompt, task and schema first: they are the same for all rows, so the server caches them as prefix."""
    known = [f"{name}: {text}" for name, column in fields.items() if (text := filled(record, column))]
    schema = [f"{value} = {label}" for label, value in zip(scale.labels, scale.values, strict=True)]
    return "\n".join([f"Task: Rate this record for: {topics}.", "", "Rating schema:", *schema, "", "Record:", *known])
