"""Roles of the columns: their common names, the user's choices (`--column ROLE=NAME`), and which column has which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import DatasetError, UsageError
from .cells import for_error
from .schema import Rating

# Common names of each column, the first being the one that we write; see `folded` for what does not matter in them.
PROMPT = ("Prompt", "formatted_prompt")
VALUE = ("Standardized_Rating", "Expert Rating", "Rating")
RATIONALE = ("Rationale of Rating", "Expert Rationale", "Rationale")
ROW_ID = (
    *("Row_ID", "record_id", "visit_id", "encounter_id", "case_id", "episode_id", "stay_id"),
    *("encounter_number", "case_number", "CSN", "ID"),
)
PATIENT = (
    *("C_BioSense_ID", "C_Unique_Patient_ID", "patient_id", "pat_id", "MRN", "patient_MRN", "medical_record_number"),
    *("MedRecNo", "patient_number", "patient", "person_id", "subject_id", "subject", "USUBJID", "SUBJID"),
    *("participant_id", "participant"),
)
ROLES: Mapping[str, tuple[str, ...]] = {
    "id": ROW_ID,
    "patient": PATIENT,
    "rating": VALUE,
    "rationale": RATIONALE,
    "prompt": PROMPT,
}
TEXT = "text"  # the role of the columns from which prompts are made
# Their common names, by the name in the prompt, in its order. Only known columns: any other could contain the rating.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "Chief complaint": ("ChiefComplaintOrig", "Chief Complaint", "ChiefComplaint", "ChiefComplaintParsed"),
    "Discharge diagnosis": ("Discharge Diagnosis", "DischargeDiagnosis", "Diagnosis_Combo"),
    "Age": ("Age", "Age_Years"),
    "Sex": ("Sex", "Gender"),
    "Clinical impression": ("ClinicalImpression", "Clinical Impression"),
    "Admit reason": ("Admit_Reason_Combo", "AdmitReason"),
    "Triage notes": ("TriageNotes", "TriageNotesOrig", "Triage Notes"),
}
NO_PATIENT = (
    "no patient column: records of one patient may stand on both sides of the split, in training and in testing, and "
    "the figures may then be too good; name it with --column patient=NAME"
)


def folded(name: str) -> str:
    """Return a column name without the differences in case, blanks, underscores, hyphens and dots."""
    return re.sub(r"[\s_.-]+", "", name).casefold()


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column that has one of the names, the first name first; an exact match comes before a folded one."""
    for name in names:
        if name in columns:
            return name
        for column in columns:
            if folded(column) == folded(name):
                return column
    return None


def listed(columns: Sequence[str]) -> str:
    """List columns for a message; without a header they would be the text of a row, so long ones are hidden."""
    return ", ".join(for_error(column, 40) for column in columns[:30]) + (" …" if len(columns) > 30 else "")


@dataclass(frozen=True)
class Columns:
    """The columns of a file by role. `text` are those from which prompts are made, empty if the file has prompts.

    `chosen` are the roles that the user named; the other roles were recognised by a common name.
    """

    source: str
    names: tuple[str, ...]
    roles: Mapping[str, str]
    text: tuple[str, ...] = ()
    chosen: frozenset[str] = frozenset()

    def get(self, role: str) -> str | None:
        return self.roles.get(role)

    def need(self, role: str) -> str:
        """Return the column of a role. Raises DatasetError if there is none."""
        if role not in self.roles:
            remedy = f"; name one with --column {role}=NAME"
            if role == "prompt":
                remedy += ", the columns to make prompts from with text=NAME, or run expertune format first"
            raise _missing(self.source, self.names, ROLES[role], remedy)
        return self.roles[role]

    def unused(self) -> tuple[str, ...]:
        used = {*self.roles.values(), *self.text}
        return tuple(column for column in self.names if column not in used)

    def __str__(self) -> str:
        """Say in one line which columns were named, recognised and not used."""
        used = [*self.roles.items(), *([(TEXT, listed(self.text))] if self.text else [])]
        parts = {
            "named": [f"{role} = {column}" for role, column in used if role in self.chosen],
            "recognised": [f"{role} = {column}" for role, column in used if role not in self.chosen],
            "not used to rate": [listed(self.unused())] if self.unused() else [],
        }
        said = "; ".join(f"{part}: {', '.join(columns)}" for part, columns in parts.items() if columns)
        return f"{self.source}: columns {said}"


def find_columns(source: str, names: Sequence[str], choices: Sequence[str] = (), *, raw: bool = False) -> Columns:
    """Find the column of each role: as chosen ("ROLE=NAME"), else by a common name among the other columns.

    Prompts are made from the text columns if these are chosen, and from those with a common name if the file is `raw`.
    Raises UsageError for a choice that cannot be, DatasetError for a chosen column that the file does not have.
    """
    wanted = chosen_columns(choices)
    found = {role: tuple(_named(source, names, role, name) for name in each) for role, each in wanted.items()}
    taken = [column for columns in found.values() for column in columns]
    if repeated := next((column for column in taken if taken.count(column) > 1), None):
        roles = " and ".join(role for role, columns in found.items() if repeated in columns)
        raise UsageError(f"column: {for_error(repeated, 40)!r} is given twice, as {roles}; a column has one role")
    free = [name for name in names if name not in taken]
    roles = {role: columns[0] for role, columns in found.items() if role != TEXT}
    for role, common in ROLES.items():
        skipped = role == "prompt" and (raw or TEXT in found)
        if role not in roles and not skipped and (column := find_column(free, common)):
            roles[role] = column
    known = tuple(filter(None, (find_column(free, each) for each in FIELDS.values()))) if raw else ()
    ordered = {role: roles[role] for role in ROLES if role in roles}
    return Columns(source, tuple(names), ordered, found.get(TEXT, known), frozenset(found))


def chosen_columns(choices: Sequence[str]) -> dict[str, list[str]]:
    """Parse "ROLE=NAME" choices to the names of each role. Raises UsageError."""
    known = (*ROLES, TEXT)
    names: dict[str, list[str]] = {}
    for choice in choices:
        role, _, name = (part.strip() for part in choice.partition("="))
        if role not in known or not name:
            raise UsageError(f"column: {choice!r} is not ROLE=NAME with the role {', '.join(known[:-1])} or {TEXT}")
        names.setdefault(role, []).append(name)
        if role != TEXT and len(names[role]) > 1:
            raise UsageError(f"column: {role} is given twice, {' and '.join(names[role])}; only text may be repeated")
    if TEXT in names and "prompt" in names:
        raise UsageError("column: text and prompt are both given; prompts are either made or there, leave one out")
    return names


def _named(source: str, columns: Sequence[str], role: str, name: str) -> str:
    column = find_column(columns, (name,))
    if column is None:
        raise _missing(source, columns, (name,), f"; correct --column {role}={name}")
    return column


def _missing(source: str, columns: Sequence[str], names: Sequence[str], remedy: str) -> DatasetError:
    shown = [*names[:3], *(["…"] if len(names) > 3 else [])]
    wanted = " or ".join(name if name == "…" else f'"{name}"' for name in shown)
    return DatasetError(f"{source}: no column {wanted}; it has: {listed(columns)}{remedy}")


def field_name(column: str) -> str:
    """Return the name that a text column has in prompts: its common one, or its own."""
    return next((name for name, common in FIELDS.items() if find_column((column,), common)), column)


def check_columns(rows: Sequence[Rating], columns: Sequence[str]) -> None:
    """Raise UsageError for a requested column that the rating file does not have."""
    known = columns_of(rows)
    for name in columns:
        if folded(name) not in known:
            others = f"it has {', '.join(sorted(known.values()))}" if known else "it has only the required columns"
            raise UsageError(f"subgroups: the rating file has no column {name!r}; {others}")


def columns_of(rows: Sequence[Rating]) -> dict[str, str]:
    """Map the folded name of each extra column to the name in the file."""
    return {folded(column): column for row in rows for column in row.extra}
