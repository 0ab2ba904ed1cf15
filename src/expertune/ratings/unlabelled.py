"""Records without a rating to train on: those that cannot give away a record kept back for validation or testing."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .columns import ROW_ID
from .near_duplicates import find_duplicates
from .read import RatedFile
from .records import read_unrated
from .schema import Rating, Split, UnratedRecord
from .split import group_ratings

MOST_PER_RATED = 4  # for each training record: training takes longer with each, and the labels are a classifier's

# reasons for leaving a record out
UNUSABLE = "without a usable prompt"
RATED = "the same as or nearly the same as a rated record"
KEPT_BACK = "of a patient, Row_ID or group of the validation or test records"
REPEATED = "the same as or nearly the same as an earlier one"
TOO_MANY = f"more than {MOST_PER_RATED} for each training record"
TOO_LONG = "longer than the limit"


@dataclass(frozen=True)
class Unlabelled:
    """The records to train on, and how many of the `read` ones were left out, by reason."""

    source: str
    read: int
    records: tuple[UnratedRecord, ...]
    left_out: Mapping[str, int]

    @property
    def sha256(self) -> str:
        """Hash of the records to train on."""
        return hashlib.sha256(repr([(each.id, each.prompt) for each in self.records]).encode()).hexdigest()

    def line(self) -> str:
        """Describe the counts; no text of a record."""
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return (
            f"{self.source}: {len(self.records):,} of {self.read:,} records without a rating to train on, with a "
            f"classifier's labels{f' (left out: {reasons})' if reasons else ''}"
        )

    def without(self, ids: Collection[str]) -> Unlabelled:
        """Leave out records that are too long for the model."""
        kept = tuple(each for each in self.records if each.id not in ids)
        return self._with(kept, {TOO_LONG: len(self.records) - len(kept)})

    def _with(self, kept: tuple[UnratedRecord, ...], reasons: Mapping[str, int]) -> Unlabelled:
        left_out = {reason: count for reason, count in {**self.left_out, **reasons}.items() if count}
        return replace(self, records=kept, left_out=left_out)


def load_unlabelled(path: Path, rated: RatedFile, parts: Split, *, threshold: float, notes: list[str]) -> Unlabelled:
    """Read a file of records without a rating and leave out what must not or need not be trained on.

    The ratings of `rated` are those of `parts`; near-duplicates are at least `threshold` similar. Raises DatasetError.
    """
    ratings = rated.ratings
    records, unusable = read_unrated(path, rated.columns, rated.template, notes=notes)
    everyone = [*_with_row_ids(ratings), *records]
    duplicates = find_duplicates(everyone, threshold)
    group_of = group_ratings(everyone, duplicates)
    text_of = group_ratings([replace(each, group=None, extra={}) for each in everyone], duplicates)
    texts = {text_of[each.id] for each in ratings}
    kept_back = {group_of[each.id] for each in (*parts.dev, *parts.test)}
    kept, reasons, earlier = list[UnratedRecord](), Counter[str](), set[str]()
    for each in records:
        reason = (
            (text_of[each.id] in texts and RATED)
            or (group_of[each.id] in kept_back and KEPT_BACK)
            or (text_of[each.id] in earlier and REPEATED)
        )
        earlier.add(text_of[each.id])
        if reason:
            reasons[reason] += 1
        else:
            kept.append(each)
    few = _sampled(kept, MOST_PER_RATED * len(parts.train), parts.seed)
    left_out = {UNUSABLE: unusable, **reasons, TOO_MANY: len(kept) - len(few)}
    nothing = Unlabelled(str(path), len(records) + unusable, (), {})
    return nothing._with(tuple(few), left_out)


def _with_row_ids(ratings: Sequence[Rating]) -> list[Rating]:
    """The ratings with their Row_ID in `extra`, where `group_ratings` finds it; row numbers name no record."""
    if all(each.id == str(each.row) for each in ratings):
        return list(ratings)
    return [replace(each, extra={ROW_ID[0]: each.id, **each.extra}) for each in ratings]


def _sampled(records: Sequence[UnratedRecord], most: int, seed: int) -> list[UnratedRecord]:
    """At most so many records, drawn by the seed, in the order of the file."""
    if len(records) <= most:
        return list(records)
    return [records[at] for at in sorted(random.Random(seed).sample(range(len(records)), most))]
