"""Ratings in, everything that the later stages share out: audited, split, as chat examples."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import DatasetTooSmallWarning
from .audit import AuditReport, audit
from .columns import check_columns
from .examples import make_examples, select_part, system_prompt
from .read import from_frame, read_ratings
from .scale import RatingScale, load_scale
from .schema import Example, Rating, Split
from .split import split

SMALL = 50  # usable rows below which a tuned model would be a guess


@dataclass(frozen=True)
class Dataset:
    """One data set, ready for both ways. `examples` holds the parts by name; `input_sha256` is of the rows as read."""

    ratings: tuple[Rating, ...]
    scale: RatingScale
    topics: str
    system: str
    audit: AuditReport
    split: Split
    examples: Mapping[str, tuple[Example, ...]]
    input_sha256: str
    source: str
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.split.parts().items()}

    def without(self, ids: frozenset[str]) -> Dataset:
        """The same split with some rows left out (those that are too long for the model)."""

        def kept(rows: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(row for row in rows if row.id not in ids)

        parts = {name: kept(rows) for name, rows in self.split.parts().items()}
        examples = {name: kept(rows) for name, rows in self.examples.items()}
        return replace(self, split=replace(self.split, **parts), examples=examples)


def load_dataset(data: Any, rating_mapping: Any, topics: str, config: Config) -> Dataset:
    """`data` is a path or a DataFrame. Warns DatasetTooSmallWarning below 50 rows.

    Raises DatasetError, and UsageError for a column of `config.subgroups` that is not there: before the work.
    """
    notes: list[str] = []
    if isinstance(data, (str, Path)):
        source = str(data)
        scale = load_scale(rating_mapping, Path(data))
        ratings = read_ratings(Path(data), scale, notes=notes)
    else:
        source = "the data frame"
        scale = load_scale(rating_mapping, None)
        ratings = from_frame(data, scale, source, notes=notes)
    check_columns(ratings, config.subgroups)
    if len(ratings) < SMALL:
        warnings.warn(
            f"{source}: {len(ratings)} usable rows; below {SMALL} a tuned model would be a guess",
            DatasetTooSmallWarning,
            stacklevel=2,
        )
    found = audit(ratings, scale, near_duplicate=config.near_duplicate_threshold)
    parts = split(
        ratings,
        dev_share=config.dev_share,
        test_share=config.test_share,
        seed=config.seed,
        near_duplicate=config.near_duplicate_threshold,
    )
    examples = make_examples(parts, scale, topics)
    return Dataset(
        tuple(ratings),
        scale,
        topics,
        system_prompt(scale, topics),
        found,
        parts,
        {part: tuple(select_part(examples, part)) for part in parts.parts()},
        _digest(ratings),
        source,
        tuple(notes),
    )


def _digest(ratings: list[Rating]) -> str:
    """Of what was read, so that a CSV and a DataFrame of the same rows have the same one."""
    digest = hashlib.sha256()
    for rating in ratings:
        digest.update(repr((rating.id, rating.prompt, rating.value, rating.rationale, rating.group)).encode())
    return digest.hexdigest()
