"""What a training takes and gives: its rows, and the adapter's state that was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import TrainingFailedError
from ..predict.score import likeliest
from .class_balance import NO_TEACHER, Teacher
from .encode import Candidates, Row, Tokenized, unrated_row
from .events import Event


@dataclass(frozen=True)
class TrainingResult:
    """The kept state: the last one that was not worse than the one before in both macro-F1 and the labels' log-loss.

    `macro_f1` and `loss` (of the labels, nats) are its figures on the dev rows; `history` has the events.

    `base_log_RK` and `best_log_RK` are the log-probabilities of the dev rows' labels by the base and the best state;
    `best_code_log_RK` those by the codes, if there is a code branch.
    """

    steps: int
    best_step: int
    macro_f1: float
    loss: float
    base_macro_f1: float
    history: tuple[Event, ...]
    base_log_RK: torch.Tensor
    best_log_RK: torch.Tensor
    best_code_log_RK: torch.Tensor | None = None


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on, rows to evaluate on, and the candidate answers of the labels.

    Rows without a rating, which all have a soft label of the `teacher`, come last in `train`.
    Raises TrainingFailedError if a part is empty.
    """

    train: Sequence[Row]
    dev: Sequence[Row]
    candidates: Candidates
    teacher: Teacher = NO_TEACHER

    def __post_init__(self) -> None:
        if not self.train or not self.dev:
            raise TrainingFailedError("no rows are left to train on or to evaluate on; add rows")

    @classmethod
    def of(cls, tokens: Tokenized, teacher: Teacher) -> TrainingData:
        """Of a dataset; each record without a rating gets its most probable label, or is left out without one."""
        rows = tokens.rows
        unrated = [
            unrated_row(row.id, row.prompt, tokens.candidates, likeliest(shares))
            for row in rows.unlabelled
            if (shares := teacher.soft_labels.get(row.id))
        ]
        return cls((*rows.train, *unrated), rows.dev, tokens.candidates, teacher)

    @property
    def rated(self) -> int:
        """Number of training rows that the expert rated."""
        return sum(row.rated for row in self.train)
