"""Tokenise examples with the engine that will serve the model: training tokens equal serving tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine.base import Engine
from ..engine.label_scoring import common_prefix, distinguishing
from ..errors import DatasetError, TrainingFailedError
from ..ratings.codes import CodeBranch
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale, answer_opening
from ..ratings.schema import BySplit, Example
from .code_branch import CodeTokens, code_tokens
from .recipe import TrainingPlan


@dataclass(frozen=True)
class Row:
    """An example as tokens. `weights` has one loss weight per answer token; the prompt is never a target.

    `rationale` is the slice of the answer that contains the expert's rationale; empty if none was given. Of a row that
    is not `rated`, the label is another rater's.
    """

    id: str
    label: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weights: tuple[float, ...]
    rationale: tuple[int, int] = (0, 0)
    rated: bool = True

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Candidates:
    """Beginnings of the labels' answers, in tokens: the common prefix, then each label's own part.

    A label's own part ends with the first token after which all answers are equal. `code` is the code branch, a second
    answer to each prompt.
    """

    shared: tuple[int, ...]
    own: tuple[tuple[int, ...], ...]
    code: CodeTokens | None = None

    def rivals(self, label: int, at: int) -> dict[int, tuple[int, ...]]:
        """Next token → the labels that take it, after the first `at` own tokens of `label`."""
        path, found = self.own[label][:at], dict[int, tuple[int, ...]]()
        for other, own in enumerate(self.own):
            if len(own) > at and own[:at] == path:
                found[own[at]] = (*found.get(own[at], ()), other)
        return found

    def decisions(self, label: int) -> tuple[int, ...]:
        """Places in the label's answer whose token distinguishes it from another label: one, or several if labels share
        a beginning ("Urgency", "Urgent")."""
        own = range(len(self.own[label]))
        return tuple(len(self.shared) + at for at in own if len(self.rivals(label, at)) > 1)


@dataclass(frozen=True)
class TokenRows(BySplit[tuple[Row, ...]]):
    """The token rows of each part, and of the records without a rating."""

    unlabelled: tuple[Row, ...] = ()

    @property
    def in_order(self) -> tuple[tuple[Row, ...], ...]:
        """Those to train on first."""
        return self.train, self.unlabelled, self.dev, self.test


@dataclass(frozen=True)
class Tokenized:
    """The dataset of a training in tokens, without records that are too long.

    `branch` is the code branch, `context` the engine's context in tokens.
    """

    plan: TrainingPlan
    dataset: Dataset
    rows: TokenRows
    candidates: Candidates
    branch: CodeBranch | None
    context: int


def candidates(engine: Engine, example: Example, scale: RatingScale, branch: CodeBranch | None = None) -> Candidates:
    """Tokenise the candidate answers; they are the same after every prompt of one template.

    Raises TrainingFailedError if two labels have the same tokens.
    """
    prompt = engine.render(example.messages)
    full = [engine.continuation(prompt, answer_opening(label)) for label in scale.labels]
    if len(set(map(tuple, full))) < len(full):
        raise TrainingFailedError(
            "two labels of the mapping have the same tokens in the model's tokenizer; rename one of them"
        )
    shared, own = distinguishing(full)  # the tokens over which the engine scores the labels
    code = code_tokens(engine, prompt, branch) if branch else None
    return Candidates(tuple(shared), tuple(map(tuple, own)), code)


def encode(
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    *,
    rationale_weight: float = 1.0,
    on_row: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Tokenise all examples; a rationale's tokens get the loss weight `rationale_weight`, all others 1.

    Raises TrainingFailedError with the row's id if an answer has no target token.
    """
    end, rows = tuple(engine.turn_end()), []
    for example in examples:
        rows.append(_encode_row(engine, example, scale, end, rationale_weight))
        on_row()
    return rows


def _encode_row(
    engine: Engine,
    example: Example,
    scale: RatingScale,
    end: tuple[int, ...],
    rationale_weight: float,
) -> Row:
    prompt_text = engine.render(example.messages)
    prompt = tuple(engine.tokenize(prompt_text))
    answer = tuple(engine.continuation(prompt_text, example.target))
    opening = tuple(engine.continuation(prompt_text, answer_opening(example.label)))
    if not answer or not prompt:
        raise TrainingFailedError(
            f"row {example.id}: no target token is left after the prompt; check its prompt and rating"
        )
    label, start = scale.labels.index(example.label), common_prefix([answer, opening])
    has_text = not example.target.endswith('"rationale": ""}')
    of_token = [1.0] * start + [rationale_weight if has_text else 1.0] * (len(answer) - start) + [1.0] * len(end)
    rationale = (start, len(answer)) if has_text else (0, 0)
    return Row(example.id, label, prompt, answer + end, tuple(of_token), rationale)


def unrated_row(id: str, prompt: Sequence[int], answers: Candidates, label: int = 0) -> Row:
    """A row that learns only its label decisions: no token has a weight, and the answer ends with the last decision."""
    answer = (*answers.shared, *answers.own[label])[: answers.decisions(label)[-1] + 1]
    return Row(id, label, tuple(prompt), answer, (0.0,) * len(answer), rated=False)


def encode_all(
    engine: Engine, dataset: Dataset, answers: Candidates, *, rationale_weight: float, on_row: Callable[[], None]
) -> list[Row]:
    """Tokenise the examples of all parts, then the records without a rating."""
    examples = [example for part in dataset.examples.parts().values() for example in part]
    rows = encode(engine, examples, dataset.scale, rationale_weight=rationale_weight, on_row=on_row)
    for each in dataset.unlabelled.records if dataset.unlabelled else ():
        messages = (*examples[0].messages[:-1], {"role": "user", "content": each.prompt})
        rows.append(unrated_row(each.id, engine.tokenize(engine.render(messages)), answers))
        on_row()
    return rows


def rows_by_part(rows: Sequence[Row], dataset: Dataset, limit: int, *, drop: bool) -> tuple[TokenRows, Dataset]:
    """Rows of at most `limit` tokens by part, and the dataset of their records.

    Raises as check_lengths, and TrainingFailedError if a part is empty. Too long records without a rating are left out.
    """
    unrated = check_lengths([row for row in rows if not row.rated], limit, drop=True)
    fitting = {row.id: row for row in check_lengths([row for row in rows if row.rated], limit, drop=drop)}
    fitting |= {row.id: row for row in unrated}
    kept = dataset.without(frozenset(row.id for row in rows if row.id not in fitting))
    empty = [part for part, left in kept.examples.parts().items() if not left]
    if empty:
        raise TrainingFailedError(
            f"no records are left in {' and '.join(empty)}; give more records or raise --max-tokens"
        )
    by_part = kept.examples.map(lambda examples: tuple(fitting[example.id] for example in examples))
    return TokenRows(**by_part.parts(), unlabelled=tuple(unrated)), kept


def check_lengths(rows: Sequence[Row], limit: int, *, drop: bool) -> list[Row]:
    """Rows of at most `limit` tokens. Raises DatasetError with the ids of longer ones unless `drop`."""
    long = [row for row in rows if row.length > limit]
    if long and not drop:
        names = ", ".join(f"{row.id} ({row.length} tokens)" for row in long[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DatasetError(
            f"column Prompt: {len(long)} rows are longer than {limit} tokens with their answer: row id {names}{more}; "
            "shorten them, raise --max-tokens, or leave them out with --long-records drop"
        )
    return [row for row in rows if row.length <= limit]
