"""The columns added to a rated record: rating, confidence, and the reasons for a review by a person."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..outputs import plain_name
from ..predict.uncertainty import Uncertainty
from ..ratings.scale import RatingScale
from ..ratings.tables import CellsByColumn
from ..text import one_line
from .journal import JournalEntry

LOW_CONFIDENCE = 0.6
BETWEEN = " | "  # labels of a set, reasons of a row

RATING, LABEL, CONFIDENCE = "Predicted_Rating", "Predicted_Label", "Confidence"
SET, REASONS, RATIONALE, ERROR = "Conformal_Set", "Review_Reasons", "Rationale", "Rating_Error"

DISAGREEMENT = "Models_Disagree"  # 1 where the members of a model set would rate differently

FAILED, SEVERAL, NONE, LOW, NOVEL, DISAGREE = (
    "not rated",
    "several labels fit",
    "no label fits",
    "low confidence",
    "unlike the training rows",
    "models disagree",
)
REVIEW_REASONS = (FAILED, SEVERAL, NONE, LOW, NOVEL, DISAGREE)

LONGEST_NAME = 32  # of a column in SAS and Stata
# words that no variable of R or Stata may have as its name
_RESERVED = {
    *("if", "in", "int", "long", "byte", "float", "double", "using", "with", "else", "for", "while", "function"),
    *("next", "break", "repeat", "true", "false", "null", "na", "inf", "nan"),
}


@dataclass(frozen=True)
class Wanted:
    """Columns to write, and their settings."""

    scale: RatingScale
    trust: Uncertainty
    calibrated: bool = True
    rationale: bool = False
    votes: bool = False

    def columns(self) -> dict[str, type]:
        """The added columns with their types, in their order."""
        shares = dict.fromkeys(share_columns(self.scale).values(), float)
        own: dict[str, type] = {DISAGREEMENT: int} if self.votes else {}
        own |= {RATIONALE: str} if self.rationale else {}
        return {
            **{RATING: int, LABEL: str, CONFIDENCE: float},
            **shares,
            **{SET: str, REASONS: str},
            **own,
            ERROR: str,
        }

    def shares(self, probabilities: Sequence[float]) -> Sequence[float]:
        """Probabilities to write: calibrated if requested and fitted, else the model's own."""
        if not self.calibrated or self.trust.calibration is None:
            return probabilities
        return self.trust.calibration.apply(probabilities)


def share_columns(scale: RatingScale) -> dict[str, str]:
    """Map each label to the column of its share: p_match, p_does_not_match; p_value_1 for a label in another script."""
    return dict(zip(scale.labels, _share_names(scale.labels, scale.values), strict=True))


@functools.cache  # asked for each record
def _share_names(labels: Sequence[str], values: Sequence[int]) -> tuple[str, ...]:
    taken = set[str]()
    names = (plain_name(label.casefold()) or f"value_{value}" for label, value in zip(labels, values, strict=True))
    return tuple(valid_name(f"p_{name.replace('-', 'minus_')}", taken) for name in names)


def valid_name(text: str, taken: set[str]) -> str:
    """Return a name that R, SAS and Stata take, in any case different from those `taken`, to which it is added."""
    name = plain_name(text)
    if not name or name[0].isdigit() or name.casefold() in _RESERVED:
        name = f"v_{name}".rstrip("_")
    short, number = name[:LONGEST_NAME], 1
    while short.casefold() in taken:
        number += 1
        short = f"{name[: LONGEST_NAME - len(f'_{number}')]}_{number}"
    taken.add(short.casefold())
    return short


def cells(wanted: Wanted, entry: JournalEntry, prompt: str) -> CellsByColumn:
    """The added cells of one row; a row that failed has a reason and never a value."""
    if entry.error is not None:
        return failed_cells(wanted, entry.error)
    empty: CellsByColumn = dict.fromkeys(wanted.columns())
    scale, trust = wanted.scale, wanted.trust
    shares = wanted.shares(entry.probabilities)
    best = scale.labels.index(entry.label or "")  # as the run judged it: calibration changes shares, never a label
    fitting = None if trust.conformal is None else trust.conformal.labels_for(entry.probabilities)
    novel = trust.novelty is not None and trust.novelty.is_novel(prompt)
    differ = len(set(entry.votes.values())) > 1
    reasons = _reasons(fitting, entry.label, shares[best], novel, differ)
    found: CellsByColumn = {
        RATING: scale.values[best],
        LABEL: scale.labels[best],
        CONFIDENCE: round(shares[best], 6),
        **{name: round(share, 6) for name, share in zip(share_columns(scale).values(), shares, strict=True)},
        SET: None if fitting is None else BETWEEN.join(fitting),
        # a reviewed row needs no second review
        REASONS: "" if entry.override is not None else BETWEEN.join(reasons),
    }
    if wanted.votes:
        found[DISAGREEMENT] = int(differ)
    if wanted.rationale:
        found[RATIONALE] = rationale_of(entry.answer or "")
    return empty | found


def failed_cells(wanted: Wanted, error: str) -> CellsByColumn:
    """The added cells of a row that could not be read or rated."""
    return {**dict.fromkeys(wanted.columns()), REASONS: FAILED, ERROR: error}


def _reasons(
    fitting: tuple[str, ...] | None, label: str | None, confidence: float, novel: bool, differ: bool
) -> list[str]:
    holds = {
        SEVERAL: bool(fitting) and fitting != (label,),
        NONE: fitting is not None and not fitting,
        LOW: confidence < LOW_CONFIDENCE,
        NOVEL: novel,
        DISAGREE: differ,
    }
    return [reason for reason, true in holds.items() if true]


def rationale_of(answer: str) -> str:
    """The reason at the beginning of `answer`, up to the end of its JSON string; "…" marks one that was cut."""
    end, escaped = len(answer), False
    for place, letter in enumerate(answer):
        if letter == '"' and not escaped:
            end = place
            break
        escaped = letter == "\\" and not escaped
    text, cut = answer[:end], end == len(answer)
    for shorter in range(7):  # a text that was cut may end inside an escape (\u00e9)
        try:
            whole = json.loads(f'"{text[: len(text) - shorter]}"', strict=False)
        except json.JSONDecodeError:
            continue
        line = one_line(whole)
        return f"{line}…" if cut and line else line
    return one_line(text)
