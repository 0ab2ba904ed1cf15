"""Token rows → packs without padding. What the rows of a pack share at their beginning is computed once.

Axes: T token of the pack · N target place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from ..model.attention import Segment
from ..model.forward_context import Pack
from .encode import Candidates, Row

ROUND = 32  # tokens
LabelOffsets = Sequence[tuple[int, int, float]]  # place in the label's answer, token, what is added to its logit
WORTH_SHARING = 4  # tokens; below, a segment of its own costs more than it spares


@dataclass(frozen=True)
class Offsets:
    """`values_M` are added to the logits of `tokens_M` at the target places `rows_M`."""

    rows_M: torch.Tensor
    tokens_M: torch.Tensor
    values_M: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """A pack with its targets: the hidden state at `places_N` predicts `targets_N` with weight `weights_N`.

    `offsets` are added to logits in training. `tokens` are those of the rows as a reader would count them, the shared
    beginning in each.
    """

    pack: Pack
    places_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    tokens: int
    offsets: Offsets | None = None


class _Packer:
    """Collects segments; a run's place in the pack and its position in its text are different things."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []

    def add(self, tokens: Sequence[int], before: tuple[tuple[int, int], ...] = ()) -> tuple[int, int]:
        """Append a run behind the runs `before` of its text; returns its place in the pack."""
        start, seen = len(self.tokens), sum(stop - begin for begin, stop in before)
        self.tokens += tokens
        self.positions += range(seen, seen + len(tokens))
        run = (start, len(self.tokens))
        self.segments.append(Segment(*run, before))
        return run

    def pack(self) -> Pack:
        """The pack, filled up to a round length with tokens that belong to no segment: nothing sees them.

        A few lengths instead of hundreds, since the CPU's matrix library prepares itself for each.
        """
        fill = [0] * (-len(self.tokens) % ROUND)
        return Pack(torch.tensor(self.tokens + fill), torch.tensor(self.positions + fill), tuple(self.segments))


def shared_beginning(rows: Sequence[Row]) -> int:
    """Tokens with which all prompts begin, at least one short of the shortest prompt; 0 where it is not worth it."""
    if len(rows) < 2:
        return 0
    limit = min(len(row.prompt) for row in rows) - 1
    first = rows[0].prompt
    count = next((i for i in range(limit) if any(row.prompt[i] != first[i] for row in rows)), limit)
    return count if count >= WORTH_SHARING else 0


def training_batch(
    rows: Sequence[Row], class_weights: Sequence[float], adjustment: Sequence[LabelOffsets] = ()
) -> Batch:
    """Rows → one pack with a target at each answer token, weighted by token and class.

    `adjustment` has, for each label, what is added to the logits in its answer (see `class_balance`).
    """
    packer, shared = _Packer(), shared_beginning(rows)
    before = (packer.add(rows[0].prompt[:shared]),) if shared else ()
    places, targets, weights = [], [], []
    for row in rows:
        _, stop = packer.add((*row.prompt[shared:], *row.answer[:-1]), before)
        places += range(stop - len(row.answer), stop)
        targets += row.answer
        weights += [weight * class_weights[row.label] for weight in row.weights]
    return Batch(
        packer.pack(),
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights, dtype=torch.float32),
        sum(row.length for row in rows),
        _offsets(rows, adjustment) if adjustment else None,
    )


def _offsets(rows: Sequence[Row], adjustment: Sequence[LabelOffsets]) -> Offsets:
    starts = accumulate((len(row.answer) for row in rows), initial=0)
    found = [
        (start + place, token, value)
        for start, row in zip(starts, rows, strict=False)
        for place, token, value in adjustment[row.label]
    ]
    places, tokens, values = zip(*found, strict=True)
    return Offsets(torch.tensor(places), torch.tensor(tokens), torch.tensor(values, dtype=torch.float32))


def parts_of(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """A batch in as few parts of about `tokens` as it needs, the rows spread evenly over them."""
    parts = min(len(rows), -(-sum(row.length for row in rows) // tokens))
    return [list(rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]) for part in range(parts)]


@dataclass(frozen=True)
class DevBatch:
    """A pack in which each row's prompt is read once, followed by its own answer and by every candidate.

    `owner_N` says what each target place belongs to: row · (1 + labels) + 0 for the row's answer, + 1 + label else.
    """

    batch: Batch
    owner_N: torch.Tensor
    rows: tuple[Row, ...]


def dev_batch(rows: Sequence[Row], candidates: Candidates) -> DevBatch:
    """Rows → one pack that scores the labels and the row's own answer in a single pass."""
    packer, beginning = _Packer(), shared_beginning(rows)
    before = (packer.add(rows[0].prompt[:beginning]),) if beginning else ()
    places, targets, weights, owners = [], [], [], []
    for index, row in enumerate(rows):
        start, stop = packer.add((*row.prompt[beginning:], *candidates.shared), before)
        prompt_end = stop - len(candidates.shared)
        slot = index * (1 + len(candidates.own))
        branches = [(prompt_end, row.answer, row.weights, slot)]
        branches += [(stop, own, (1.0,) * len(own), slot + 1 + label) for label, own in enumerate(candidates.own)]
        for end, tokens, token_weights, owner in branches:
            seen = (*before, (start, end))
            run = packer.add(tokens[:-1], seen) if len(tokens) > 1 else (0, 0)
            places += [end - 1, *range(*run)]
            targets += tokens
            weights += token_weights
            owners += [owner] * len(tokens)
    batch = Batch(
        packer.pack(),
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights, dtype=torch.float32),
        sum(row.length for row in rows),
    )
    return DevBatch(batch, torch.tensor(owners), tuple(rows))


def epoch_order(rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in an epoch; a function of seed and epoch alone, so that a resumed run sees the same."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def groups_of(rows: Sequence[Row], order: Sequence[int] | np.ndarray, size: int) -> Iterator[list[Row]]:
    """Rows in order, `size` at a time; the short last group is kept."""
    for start in range(0, len(order), size):
        yield [rows[int(index)] for index in order[start : start + size]]
