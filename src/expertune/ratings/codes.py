"""Codes of the labels: a second, shorter answer to the same prompt, and the ways in which labels can be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .scale import RatingScale, answer_opening

ScoredBy = Literal["words", "code", "both"]


@dataclass(frozen=True)
class CodeBranch:
    """The answer by a code: `lead` and the code of a label, which is one token there (train.code_branch).

    `codes` has the text after the lead for each label of the scale, in its order; a blank may precede the letters.
    """

    lead: str
    codes: tuple[str, ...]

    def listed(self, labels: Sequence[str]) -> str:
        """The sentence of the system text that gives the codes."""
        pairs = (f"{code.strip()} = {label}" for code, label in zip(self.codes, labels, strict=True))
        return f"Codes: {'; '.join(pairs)}."

    def answers(self) -> tuple[str, ...]:
        """The answer of each label."""
        return tuple(self.lead + code for code in self.codes)


@dataclass(frozen=True)
class LabelScoring:
    """How the labels of a record are scored: by the words of the answer, by the code, or by both.

    Both: the mean of the two log-probabilities. `branch` is there if the model was trained with codes.
    """

    by: ScoredBy = "words"
    branch: CodeBranch | None = None

    def answers(self, scale: RatingScale) -> tuple[tuple[str, ...], ...]:
        """The answers to score, a tuple for each way, with the answer of each label."""
        words, codes = tuple(map(answer_opening, scale.labels)), self.branch.answers() if self.branch else ()
        return {"words": (words,), "code": (codes,), "both": (words, codes)}[self.by]


WORDS = LabelScoring()
