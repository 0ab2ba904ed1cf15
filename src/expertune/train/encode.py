"""Examples → token ids, by the engine that will serve the model: training tokens are serving tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine.answers import distinguishing
from ..engine.base import Engine
from ..errors import DatasetError, TrainingFailedError
from ..ratings.scale import RatingScale, answer_opening
from ..ratings.schema import Example


@dataclass(frozen=True)
class Row:
    """A row as tokens. `weights` has one number for each answer token; the prompt is never a target."""

    id: str
    label: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Candidates:
    """How the labels' answers begin, in tokens: what they share, then each label's own part.

    A label's own part ends with the first token after which all answers are alike.
    """

    shared: tuple[int, ...]
    own: tuple[tuple[int, ...], ...]


def candidates(engine: Engine, example: Example, scale: RatingScale) -> Candidates:
    """The candidate answers after this example's prompt; they are the same after every prompt of one template.

    Raises TrainingFailedError where two labels are the same tokens.
    """
    prompt = engine.render(example.messages)
    full = [engine.continuation(prompt, answer_opening(label)) for label in scale.labels]
    if len(set(map(tuple, full))) < len(full):
        raise TrainingFailedError(
            "two labels of the mapping are the same for the model's tokenizer; give them different words"
        )
    shared, own = distinguishing(full)  # the tokens over which the engine scores the labels
    return Candidates(tuple(shared), tuple(map(tuple, own)))


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the common beginning."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


def encode(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    rationale_weight: float,
    on_row: Callable[[], None] = lambda: None,
) -> list[Row]:
    """All examples as token rows. Raises TrainingFailedError with the row's id where an answer has no target token."""
    end = tuple(engine.turn_end())
    rows = []
    for example in examples:
        rows.append(_encode_row(engine, example, scale, end, rationale_weight))
        on_row()
    return rows


def _encode_row(
    engine: Engine, example: Example, scale: RatingScale, end: tuple[int, ...], rationale_weight: float
) -> Row:
    prompt_text = engine.render(example.messages)
    prompt = tuple(engine.tokenize(prompt_text))
    answer = tuple(engine.continuation(prompt_text, example.target))
    opening = tuple(engine.continuation(prompt_text, answer_opening(example.label)))
    if not answer or not prompt:
        raise TrainingFailedError(
            f"row {example.id}: no target token is left after the prompt; check its prompt and rating"
        )
    rationale = _common([answer, opening])
    has_text = not example.target.endswith('"rationale": ""}')
    weight = rationale_weight if has_text else 1.0
    weights = (1.0,) * rationale + (weight,) * (len(answer) - rationale) + (1.0,) * len(end)
    return Row(example.id, scale.labels.index(example.label), prompt, answer + end, weights)


def check_lengths(rows: Sequence[Row], limit: int, *, drop: bool) -> list[Row]:
    """Rows that fit. Raises DatasetError that names the longer ones unless they may be dropped."""
    long = [row for row in rows if row.length > limit]
    if long and not drop:
        names = ", ".join(f"{row.id} ({row.length} tokens)" for row in long[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DatasetError(
            f"column Prompt: {len(long)} rows are longer than {limit} tokens with their answer: row id {names}{more}; "
            "shorten them, raise --max-tokens, or leave them out with --long-rows drop"
        )
    return [row for row in rows if row.length <= limit]
