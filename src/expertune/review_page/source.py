"""Read the file that experts work on, and write what they said: the items of the page, and their results.

Three works: rate (raw records), review (a file of `expertune rate`), adjudicate (columns of several experts).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import DatasetError, UsageError
from ..files import csv_text, write_text
from ..rate.columns import LABEL, RATING, RATIONALE, REASONS, share_columns
from ..rate.journal import record_hash
from ..rate.review import NOTE, REVIEWED, SAMPLED, queue_rows, write_queue
from ..ratings.cells import as_text, filled, is_blank
from ..ratings.columns import PROMPT, ROLES, Columns, find_columns
from ..ratings.prompts import make_template
from ..ratings.read import Table, check_text, make_prompts, read_table
from ..ratings.records import RecordFile
from ..ratings.scale import RatingScale
from ..ratings.tables import CellsByColumn, open_table

Work = Literal["rate", "review", "adjudicate"]
FEWEST_SHARING = 20  # of fewer records a line may be in all of them by chance, and is shown in each
LEARNT_ROWS = 4000  # rows of a rated file from which the marks of a review are learnt


class Final(NamedTuple):
    """What the experts decided on a text, and their comments."""

    value: int
    comment: str


@dataclass(frozen=True)
class Opinion:
    """The model's view of a record. `sampled` says that it was queued only as one of the random sample."""

    label: str
    shares: tuple[tuple[str, float], ...]
    reasons: str
    rationale: str
    sampled: bool


@dataclass(frozen=True)
class Item:
    """One text to decide on; rows of the same text are one item. `key` is the sha256 of the prompt as hex digits.

    `text` is the prompt without the lines that every record has. `given` are the ratings that the file has, by expert.
    """

    key: str
    prompt: str
    text: str
    row: int
    opinion: Opinion | None = None
    given: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The file as the page needs it. `rows` are the cells to write, with the key of each; `columns` their order.

    `known` are texts with ratings that the marks and the order may be learnt from before any expert has rated here.
    """

    path: Path
    work: Work
    scale: RatingScale
    items: tuple[Item, ...]
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    columns: tuple[str, ...]
    common: tuple[str, ...] = ()
    known: tuple[tuple[str, int], ...] = ()
    experts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    topics: str = ""


def find_work(path: Path, experts: Sequence[str], sheet: str = "") -> Work:
    """The work that a file is for: by its columns."""
    if experts:
        return "adjudicate"
    table = open_table(path, sheet)
    columns = table.columns or tuple(next(table.rows(), (0, {}))[1])
    return "review" if RATING in columns and REASONS in columns else "rate"


def key_of(prompt: str) -> str:
    return record_hash(prompt).hex()


def read_review(
    path: Path, scale: RatingScale, *, sample: float, seed: int, topics: str = "", sheet: str = ""
) -> Source:
    """The review queue of a file of `expertune rate`; the random sample is spread evenly over it.

    Raises DatasetError and UsageError as `rate.review.make_queue`, and for a mapping of other labels than the file's.
    """
    records, rows, _ = queue_rows(path, sample=sample, seed=seed, sheet=sheet)
    missing = [name for name in share_columns(scale).values() if name not in records.columns]
    if missing:
        raise UsageError(f"{path}: no column {missing[0]}; give the mapping of its ratings with --rating-mapping")
    spread = _spread(rows, seed)
    shown, common = shown_texts([as_text(row.get(records.prompt)) for row in spread])
    items: dict[str, Item] = {}
    for place, (row, text) in enumerate(zip(spread, shown, strict=True)):
        prompt = as_text(row.get(records.prompt))
        if prompt.strip():
            items.setdefault(key_of(prompt), Item(key_of(prompt), prompt, text, place + 1, _opinion(row, scale)))
    return Source(
        path,
        "review",
        scale,
        tuple(items.values()),
        tuple((key_of(as_text(row.get(records.prompt))), row) for row in spread),
        records.columns,
        common,
        _rated_by_model(records, scale, set(common)),
        notes=records.notes,
        topics=topics,
    )


def _spread(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """The queue in its order, and the random sample in random order at even distances.

    So an unfinished review has its share of the sample, and that share is a random one too.
    """
    sampled = [row for row in rows if row[REASONS] == SAMPLED]
    random.Random(seed).shuffle(sampled)
    groups = ([row for row in rows if row[REASONS] != SAMPLED], sampled)
    placed = [((at + 0.5) / len(group), row) for group in groups for at, row in enumerate(group)]
    return [row for _, row in sorted(placed, key=lambda each: each[0])]


def _opinion(row: Mapping[str, Any], scale: RatingScale) -> Opinion | None:
    if is_blank(row.get(RATING)):
        return None
    shares = tuple((label, _number(row.get(name))) for label, name in share_columns(scale).items())
    reasons = as_text(row.get(REASONS))
    return Opinion(as_text(row.get(LABEL)), shares, reasons, filled(row, RATIONALE), reasons == SAMPLED)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return 0.0


def _rated_by_model(records: RecordFile, scale: RatingScale, common: set[str]) -> tuple[tuple[str, int], ...]:
    known = []
    step = max(1, records.rows // LEARNT_ROWS)
    for batch in records.batches(LEARNT_ROWS):
        for record in batch[::step]:
            value = scale.value_of(record.cells.get(RATING))
            if value is not None and record.prompt:
                known.append((_without(record.prompt, common), value))
    return tuple(known)


def read_records(
    path: Path, scale: RatingScale, *, topics: str, choices: Sequence[str], experts: Sequence[str] = (), sheet: str = ""
) -> Source:
    """Raw records, or with prompts, to be rated; with the names of `experts`' columns, those that they rated.

    A rating that is there already is kept. Raises DatasetError (file, row, column), and UsageError for one expert.
    """
    table = read_table(path, sheet)
    if experts and len(set(experts)) < 2:
        raise UsageError("--expert: name the columns of at least two experts")
    columns = find_columns(table.source, table.columns, choices)
    if columns.get("prompt") is None and not columns.text:
        columns = find_columns(table.source, table.columns, choices, raw=True)
    if missing := [name for name in experts if name not in table.columns]:
        raise DatasetError(f'{path}: no column "{missing[0]}"; correct --expert')
    prompts = _prompts(table, columns, scale, topics)
    given = [_given(table, row, cells, experts, scale) for row, cells in table.records]
    rated = [None if experts else _rated(cells, columns, scale) for _, cells in table.records]
    shown, common = shown_texts(prompts)
    items: dict[str, Item] = {}
    known: list[tuple[str, int]] = []
    for (row, _), prompt, text, own, value in zip(table.records, prompts, shown, given, rated, strict=True):
        agreed = next(iter(own.values())) if own and len(set(own.values())) == 1 else value
        if agreed is not None:
            known.append((text, agreed))
        if value is None:
            items.setdefault(key_of(prompt), Item(key_of(prompt), prompt, text, row, given=own))
    names, rows = _written(table, columns, prompts, rated)
    return Source(
        path,
        "adjudicate" if experts else "rate",
        scale,
        tuple(items.values()),
        rows,
        names,
        common,
        tuple(known),
        tuple(dict.fromkeys(experts)),
        (*table.notes, str(columns)),
        topics,
    )


def _prompts(table: Table, columns: Columns, scale: RatingScale, topics: str) -> list[str]:
    if (prompt := columns.get("prompt")) and not columns.text:
        check_text(table, prompt)
        return [as_text(cells[prompt]) for _, cells in table.records]
    if not columns.text:
        columns.need("prompt")
    return make_prompts(table, make_template(columns.text, scale, topics))


def _given(
    table: Table, row: int, cells: Mapping[str, Any], experts: Sequence[str], scale: RatingScale
) -> dict[str, int]:
    """Each expert's rating of a row; blank cells are left out. Raises DatasetError for one outside the mapping."""
    found = {}
    for name in experts:
        value = scale.value_of(cells.get(name))
        if value is None and not is_blank(cells.get(name)):
            raise table.fault([row], name, f"not one of {scale.describe()} (add it to the mapping or correct the row)")
        if value is not None:
            found[name] = value
    return found


def _rated(cells: Mapping[str, Any], columns: Columns, scale: RatingScale) -> int | None:
    column = columns.get("rating")
    if column is None:
        return None
    return (scale.value_of if columns.get("prompt") else scale.standardize)(cells.get(column))


def _written(
    table: Table, columns: Columns, prompts: Sequence[str], rated: Sequence[int | None]
) -> tuple[tuple[str, ...], tuple[tuple[str, Mapping[str, Any]], ...]]:
    """The columns of formatted_dataset.csv, under the names that we write, then the others of the file."""
    roles = {role: names[0] for role, names in ROLES.items()}
    ours = set(roles.values())
    kept = [name for name in table.columns if name not in {*columns.roles.values(), *ours}]
    own = [role for role in ("id", "patient") if columns.get(role)]
    names = (*(roles[role] for role in (*own, "prompt", "rating", "rationale")), *kept)
    rows = []
    for (_, cells), prompt, value in zip(table.records, prompts, rated, strict=True):
        row: CellsByColumn = {roles[role]: as_text(cells.get(columns.get(role) or "")) for role in (*own, "rationale")}
        row |= {PROMPT[0]: prompt, roles["rating"]: value, **{name: as_text(cells.get(name)) for name in kept}}
        rows.append((key_of(prompt), row))
    return names, tuple(rows)


def shown_texts(prompts: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The prompts without the lines that all of them have (the task, the rating schema), and those lines."""
    if len(set(prompts)) < FEWEST_SHARING:
        return list(prompts), ()
    common = set(prompts[0].splitlines())
    for prompt in prompts:
        common &= set(prompt.splitlines())
    ordered = tuple(line for line in prompts[0].splitlines() if line in common and line.strip())
    return [_without(prompt, common) for prompt in prompts], ordered


def _without(prompt: str, common: set[str] | frozenset[str]) -> str:
    if not common:
        return prompt
    return "\n".join(line for line in prompt.splitlines() if line not in common).strip() or prompt


def write_results(source: Source, finals: Mapping[str, Final], output: Path) -> int:
    """Write the file that `tune` takes, or for a review the one that `merge-review` takes; the number of rated rows.

    Records without a decision are left out of the former, and blank in the latter. Mode 0600. Raises OutputError.
    """
    if source.work == "review":
        said = [finals.get(key) for key, _ in source.rows]
        notes = [{REVIEWED: "" if each is None else each.value, NOTE: each.comment if each else ""} for each in said]
        write_queue(output, source.columns, [row for _, row in source.rows], notes)
        return sum(each is not None for each in said)
    value, rationale = (ROLES[role][0] for role in ("rating", "rationale"))
    rated = []
    for key, row in source.rows:
        final = finals.get(key)
        if final is not None or row[value] is not None:
            rated.append(row if final is None else {**row, value: final.value, rationale: final.comment})
    write_text(output, csv_text([source.columns, *([row.get(name, "") for name in source.columns] for row in rated)]))
    return len(rated)
