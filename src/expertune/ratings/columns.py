"""Roles of the columns: their common names, the user's choices (`--column ROLE=NAME`), and which column has which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
ADJUDICATED = "adjudicated"  # the role of the label on which several experts settled: a column, or the file of a list
BY_EXPERT = ("rating", "rationale")  # roles that may have a column for each of several experts
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

    `chosen` are the roles that the user named; the other roles were recognised by a common name. `by_expert` has the
    columns of a role with one for each of several experts, which is then not in `roles`; `adjudication` is the path of
    a filled adjudication list.
    """

    source: str
    names: tuple[str, ...]
    roles: Mapping[str, str]
    text: tuple[str, ...] = ()
    chosen: frozenset[str] = frozenset()
    by_expert: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    adjudication: Path | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """The rating columns of several experts; empty if there is one."""
        return self.by_expert.get("rating", ())

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

    def in_codes(self, column: str) -> bool:
        """True if a rating column has codes, which the mapping translates: in a raw file, or under a name not ours."""
        return self.get("prompt") is None or folded(column) not in (folded(VALUE[0]), ADJUDICATED)

    def used(self) -> set[str]:
        """The columns that have a role, other than text."""
        return {*self.roles.values(), *(name for names in self.by_expert.values() for name in names)}

    def unused(self) -> tuple[str, ...]:
        used = {*self.used(), *self.text}
        return tuple(column for column in self.names if column not in used)

    def __str__(self) -> str:
        """Say in one line which columns were named, recognised and not used."""
        several = {**self.by_expert, **({TEXT: self.text} if self.text else {})}
        used = [*self.roles.items(), *((role, listed(columns)) for role, columns in several.items())]
        used += [(ADJUDICATED, f"the list {self.adjudication}")] if self.adjudication else []
        parts = {
            "named": [f"{role} = {column}" for role, column in used if role in self.chosen],
            "recognised": [f"{role} = {column}" for role, column in used if role not in self.chosen],
            "not used to rate": [listed(self.unused())] if self.unused() else [],
        }
        said = "; ".join(f"{part}: {', '.join(columns)}" for part, columns in parts.items() if columns)
        return f"{self.source}: columns {said}"


def find_columns(source: str, names: Sequence[str], choices: Sequence[str] = (), *, raw: bool = False) -> Columns:
    """Find the column of each role: as chosen ("ROLE=NAME"), else by a common name among the other columns.

    A name with commas that is no column gives the columns of several experts. Prompts are made from the text columns if
    these are chosen, and from those with a common name if the file is `raw`.
    Raises UsageError for a choice that cannot be, DatasetError for a chosen column that the file does not have.
    """
    wanted = {role: _each(role, names, each) for role, each in chosen_columns(choices).items()}
    _check_experts(wanted)
    adjudication = _adjudication_list(names, wanted)
    found = {role: tuple(_named(source, names, role, name) for name in each) for role, each in wanted.items()}
    taken = [column for columns in found.values() for column in columns]
    if repeated := next((column for column in taken if taken.count(column) > 1), None):
        roles = " and ".join(role for role, columns in found.items() if repeated in columns)
        raise UsageError(f"column: {for_error(repeated, 40)!r} is given twice, as {roles}; name a column once")
    free = [name for name in names if name not in taken]
    by_expert = {role: found[role] for role in BY_EXPERT if len(found.get(role, ())) > 1}
    roles = {role: columns[0] for role, columns in found.items() if role != TEXT and role not in by_expert}
    for role, common in ROLES.items():
        skipped = role in by_expert or (role == "prompt" and (raw or TEXT in found))
        if role not in roles and not skipped and (column := find_column(free, common)):
            roles[role] = column
    known = tuple(filter(None, (find_column(free, each) for each in FIELDS.values()))) if raw else ()
    ordered = {role: roles[role] for role in (*ROLES, ADJUDICATED) if role in roles}
    chosen = frozenset([*found, ADJUDICATED] if adjudication else found)
    return Columns(source, tuple(names), ordered, found.get(TEXT, known), chosen, by_expert, adjudication)


def chosen_columns(choices: Sequence[str]) -> dict[str, list[str]]:
    """Parse "ROLE=NAME" choices to the names of each role. Raises UsageError."""
    known = (*ROLES, ADJUDICATED, TEXT)
    names: dict[str, list[str]] = {}
    for choice in choices:
        role, _, name = (part.strip() for part in choice.partition("="))
        if role not in known or not name:
            raise UsageError(f"column: {choice!r} is not ROLE=NAME with the role {', '.join(known[:-1])} or {TEXT}")
        names.setdefault(role, []).append(name)
        if role not in (*BY_EXPERT, TEXT) and len(names[role]) > 1:
            repeatable = f"only {', '.join(BY_EXPERT)} and text may be repeated"
            raise UsageError(f"column: {role} is given twice, {' and '.join(names[role])}; {repeatable}")
    if TEXT in names and "prompt" in names:
        raise UsageError("column: text and prompt are both given; prompts are either made or there, leave one out")
    return names


def _each(role: str, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names of a role; "R1,R2" are two experts' unless one column has this name."""
    if role not in BY_EXPERT:
        return list(names)
    parts = ([name] if find_column(columns, (name,)) else name.split(",") for name in names)
    return [part.strip() for each in parts for part in each if part.strip()] or list(names)


def _adjudication_list(columns: Sequence[str], wanted: dict[str, list[str]]) -> Path | None:
    """Take out of `wanted` what is not a column but the file of an adjudication list."""
    name = wanted.get(ADJUDICATED, [""])[0]
    if not name or find_column(columns, (name,)) or not Path(name).is_file():
        return None
    del wanted[ADJUDICATED]
    return Path(name)


def _check_experts(wanted: Mapping[str, list[str]]) -> None:
    """Raise UsageError for an adjudicated label or rationales that cannot be matched to the experts' ratings."""
    ratings, rationales = (wanted.get(role, ()) for role in BY_EXPERT)
    if ADJUDICATED in wanted and len(ratings) < 2:
        raise UsageError("column: adjudicated needs the ratings of several experts; name them with rating=NAME,NAME")
    if len(rationales) > 1 and len(rationales) != len(ratings):
        raise UsageError(
            f"column: {len(rationales)} rationale columns for {len(ratings)} rating columns; name one for each expert "
            "in the order of the ratings, or a single one"
        )


def _named(source: str, columns: Sequence[str], role: str, name: str) -> str:
    column = find_column(columns, (name,))
    if column is None:
        remedy = " (a column, or the file of a filled adjudication list)" if role == ADJUDICATED else ""
        raise _missing(source, columns, (name,), f"; correct --column {role}={name}{remedy}")
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
