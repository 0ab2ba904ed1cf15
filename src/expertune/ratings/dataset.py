"""Load a rating file or DataFrame: read, audit, split, and convert to chat examples."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import DatasetTooSmallWarning, UsageError
from .audit import FEW_ROWS, AuditReport, audit
from .codes import CodeBranch
from .columns import Columns, check_columns
from .examples import make_examples, system_prompt
from .experts import ExpertRatings
from .near_duplicates import find_duplicates
from .prompts import PromptTemplate
from .read import RatedFile, frame_table, rated_records, read_table
from .scale import RatingScale, load_scale
from .schema import BySplit, Example, Rating, Split
from .split import split
from .unlabelled import Unlabelled, load_unlabelled


@dataclass(frozen=True)
class Dataset:
    """One data set, ready for tuning and for the model set.

    ratings: all usable rows, in the order of the input
    scale: labels and values of the ratings
    topics: what the records are rated for, as the user gave it
    system: the system prompt of all examples
    audit: findings about the rows
    split: the rows of train, dev and test, and their groups
    examples: the rows as chat examples
    input_sha256: hex digest of the rows as read, the same for a file and a DataFrame of the same rows
    source: path of the input, for messages
    notes: messages of the reader for the user
    columns: the columns of the input by role
    template: how the prompts were made from columns, None where that is not known
    unlabelled: records without a rating to train on, if a file was given
    experts: the ratings of several experts, where columns of several were named
    """

    ratings: tuple[Rating, ...]
    scale: RatingScale
    topics: str
    system: str
    audit: AuditReport
    split: Split
    examples: BySplit[tuple[Example, ...]]
    input_sha256: str
    source: str
    notes: tuple[str, ...]
    columns: Columns
    template: PromptTemplate | None
    unlabelled: Unlabelled | None = None
    experts: ExpertRatings | None = None

    @property
    def counts(self) -> BySplit[int]:
        return self.split.map(len)

    def without(self, ids: frozenset[str]) -> Dataset:
        """Return the same split without some rows (those that are too long for the model)."""

        def kept(rows: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(row for row in rows if row.id not in ids)

        split = replace(self.split, **self.split.map(kept).parts())
        unlabelled = self.unlabelled and self.unlabelled.without(ids)
        return replace(self, split=split, examples=self.examples.map(kept), unlabelled=unlabelled)

    def with_codes(self, branch: CodeBranch | None) -> Dataset:
        """Return the same rows with the codes of the labels in the system prompt."""
        if branch is None:
            return self
        task = (self.scale, self.topics, branch)
        return replace(self, system=system_prompt(*task), examples=make_examples(self.split, *task))


def read_rated(
    data: Any, rating_mapping: Any, topics: str, choices: Sequence[str] = (), sheet: str = ""
) -> tuple[RatedFile, RatingScale]:
    """Read a path or DataFrame, with prompts or raw, and its rating scale. Raises DatasetError and UsageError."""
    path = Path(data) if isinstance(data, (str, Path)) else None
    scale = load_scale(rating_mapping, path)
    if sheet and path is None:
        raise UsageError("sheet: a data frame has no sheets; leave it out")
    table = frame_table(data, "the data frame") if path is None else read_table(path, sheet)
    return rated_records(table, scale, topics=topics, choices=choices), scale


def load_dataset(data: Any, rating_mapping: Any, topics: str, config: Config) -> Dataset:
    """Load the ratings of `data`, a path or a DataFrame. Warns DatasetTooSmallWarning below FEW_ROWS rows.

    Raises DatasetError, and UsageError for a missing column of `config.subgroups`, before the long work begins.
    """
    rated, scale = read_rated(data, rating_mapping, topics, config.column, config.sheet or "")
    ratings, source = rated.ratings, rated.columns.source
    check_columns(ratings, config.subgroups)
    if len(ratings) < FEW_ROWS:
        warnings.warn(
            f"{source}: {len(ratings)} usable rows; below {FEW_ROWS} a tuned model would be a guess",
            DatasetTooSmallWarning,
            stacklevel=2,
        )
    duplicates = find_duplicates(ratings, config.near_duplicate_threshold)
    parts = split(ratings, duplicates, dev_share=config.dev_share, test_share=config.test_share, seed=config.seed)
    threshold, notes = config.near_duplicate_threshold, list(rated.notes)
    unlabelled = config.unlabelled and load_unlabelled(
        config.unlabelled, rated, parts, threshold=threshold, notes=notes
    )
    return Dataset(
        ratings=ratings,
        scale=scale,
        topics=topics,
        system=system_prompt(scale, topics),
        audit=audit(ratings, scale, duplicates),
        split=parts,
        examples=make_examples(parts, scale, topics),
        input_sha256=_digest(ratings),
        source=source,
        notes=tuple(notes),
        columns=rated.columns,
        template=rated.template,
        unlabelled=unlabelled,
        experts=rated.experts,
    )


def _digest(ratings: Sequence[Rating]) -> str:
    """Hash what was read, so that a CSV and a DataFrame of the same rows have the same digest."""
    digest = hashlib.sha256()
    for rating in ratings:
        digest.update(repr((rating.id, rating.prompt, rating.value, rating.rationale, rating.group)).encode())
    return digest.hexdigest()
