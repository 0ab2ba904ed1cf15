"""Build packs of rows without padding. The common prefix of the rows of a pack is computed once.

Axes: T token of the pack · N target place · M logit offset · C continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from ..config import Config
from ..model.attention import Segment
from ..model.forward_context import Pack
from ..model.memory import DEV_ROWS
from ..model.states import ROUND, SharedTokens, shared_tokens
from .class_balance import Decision
from .code_branch import CodeTokens
from .encode import Candidates, Row

NO_RIVAL = -1e30  # offset of a rival that fills up a row of `Decisions`: its probability is 0
WORTH_SHARING = 4  # tokens; for a shorter prefix an extra segment costs more than it saves


@dataclass(frozen=True)
class Decisions:
    """At the target places `rows_M` labels part: their tokens, logit offsets, target shares, and the loss weight."""

    rows_M: torch.Tensor
    tokens_MK: torch.Tensor
    offsets_MK: torch.Tensor
    shares_MK: torch.Tensor
    weights_M: torch.Tensor

    def to(self, device: torch.device) -> Decisions:
        return Decisions(*(each.to(device) for each in vars(self).values()))


@dataclass(frozen=True)
class Batch:
    """A pack with its targets: the hidden state at `places_N` predicts `targets_N` with loss weight `weights_N`.

    `decisions` are left out of evaluations. `tokens` counts the tokens of all rows, the shared prefix in each.
    """

    pack: Pack
    places_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    tokens: int
    decisions: Decisions | None = None

    @property
    def weight(self) -> float:
        """Sum of the loss weights."""
        return float(self.weights_N.sum()) + (0.0 if self.decisions is None else float(self.decisions.weights_M.sum()))


class _Packer:
    """Collects segments. The place of a token in the pack and its position in its text differ."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []

    def add(self, tokens: Sequence[int], before: tuple[tuple[int, int], ...] = ()) -> tuple[int, int]:
        """Append a run that follows the runs `before` in its text; returns its [start, stop) in the pack."""
        start, seen = len(self.tokens), sum(stop - begin for begin, stop in before)
        self.tokens += tokens
        self.positions += range(seen, seen + len(tokens))
        run = (start, len(self.tokens))
        self.segments.append(Segment(*run, before))
        return run

    def pack(self) -> Pack:
        """The pack, filled up to a multiple of ROUND with tokens that belong to no segment and that nothing attends to.

        The CPU's matrix library prepares itself for each new length, so there should be few.
        """
        fill = [0] * (-len(self.tokens) % ROUND)
        return Pack(torch.tensor(self.tokens + fill), torch.tensor(self.positions + fill), tuple(self.segments))


def shared_beginning(rows: Sequence[Row]) -> int:
    """Length of the common prefix of all prompts, less than the shortest prompt; 0 if too short to be worth sharing."""
    if len(rows) < 2:
        return 0
    count = shared_tokens([row.prompt for row in rows])
    return count if count >= WORTH_SHARING else 0


def training_batch(
    rows: Sequence[Row],
    class_weights: Sequence[float],
    decisions: Mapping[str, Sequence[Decision]] | None = None,
    *,
    shared: int | None = None,
    code: CodeTokens | None = None,
    code_weight: float = 0.0,
) -> Batch:
    """Pack rows with a target at each answer token, weighted by token and class; with `code`, also at the label's code.

    `decisions`: those of each row, by its id (see `class_balance`). `shared`: length of the prefix that is computed
    once, if not that of these rows. The lead of the code follows the row's prompt, which is computed once.
    """
    packer, shared = _Packer(), shared_beginning(rows) if shared is None else shared
    before = (packer.add(rows[0].prompt[:shared]),) if shared else ()
    places, targets, weights = [], [], []
    for row in rows:
        start, stop = packer.add((*row.prompt[shared:], *row.answer[:-1]), before)
        places += range(stop - len(row.answer), stop)
        targets += row.answer
        weights += [weight * class_weights[row.label] for weight in row.weights]
        if code is not None:
            _, stop = packer.add(code.lead, (*before, (start, start + len(row.prompt) - shared)))
            places.append(stop - 1)
            targets += (code.codes[row.label],)
            weights.append(code_weight * class_weights[row.label] * row.rated)
    return Batch(
        packer.pack(),
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights, dtype=torch.float32),
        sum(row.length for row in rows),
        decisions_of(rows, decisions, codes=code is not None) if decisions else None,
    )


def decisions_of(rows: Sequence[Row], decisions: Mapping[str, Sequence[Decision]], *, codes: bool = False) -> Decisions:
    """The decisions of all rows, at places counted over all their answers, each followed by its code with `codes`."""
    starts = accumulate((len(row.answer) + codes for row in rows), initial=0)
    found = [(start + each.place, each) for start, row in zip(starts, rows, strict=False) for each in decisions[row.id]]
    rivals = max(len(each.tokens) for _, each in found)

    def filled(values: Iterable[Sequence[float]], fill: float) -> list[list[float]]:
        return [[*each, *[fill] * (rivals - len(each))] for each in values]

    return Decisions(
        torch.tensor([place for place, _ in found]),
        torch.tensor(filled((each.tokens for _, each in found), 0), dtype=torch.long),
        torch.tensor(filled((each.offsets for _, each in found), NO_RIVAL)),
        torch.tensor(filled((each.shares for _, each in found), 0.0)),
        torch.tensor([each.weight for _, each in found]),
    )


def micro_batches(rows: Sequence[Row], tokens: int, shared: int = 0) -> list[list[Row]]:
    """Split a batch evenly into as few parts of about `tokens` computed tokens as it needs; all rows share `shared`."""
    computed = shared + sum(row.length - shared for row in rows)
    parts = min(len(rows), -(-computed // tokens))
    return [list(rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]) for part in range(parts)]


@dataclass(frozen=True)
class Continuation:
    """An answer that is scored after the prompt of a row: the row's own (`label` None) or the candidate of a label.

    `targets` are its target places among the batch's N; `code` is True for the code of a label.
    """

    row: int
    label: int | None
    targets: slice
    code: bool = False


@dataclass(frozen=True)
class DevBatch:
    """A pack that contains each row's prompt once, followed by the row's own answer, if any, and by every candidate.

    `continuations` are in the order of the target places. The candidates' targets have weight 0: they add no loss.
    """

    batch: Batch
    continuations: tuple[Continuation, ...]
    rows: tuple[Row, ...]

    @property
    def continuation_N(self) -> torch.Tensor:
        """Index of the continuation of each target place."""
        lengths_C = torch.tensor([each.targets.stop - each.targets.start for each in self.continuations])
        return torch.repeat_interleave(torch.arange(len(lengths_C)), lengths_C)


class _Targets:
    """Collects target places with their tokens and weights."""

    def __init__(self, packer: _Packer) -> None:
        self._packer = packer
        self.places: list[int] = []
        self.tokens: list[int] = []
        self.weights: list[float] = []

    def add(self, tokens: Sequence[int], weights: Sequence[float], before: tuple[tuple[int, int], ...]) -> slice:
        """Append an answer after the runs `before`; its last token is only a target. Returns its target places."""
        start = len(self.tokens)
        run = self._packer.add(tokens[:-1], before) if len(tokens) > 1 else (0, 0)
        self.places += [before[-1][1] - 1, *range(*run)]
        self.tokens += tokens
        self.weights += weights
        return slice(start, len(self.tokens))


def dev_batch(rows: Sequence[Row], candidates: Candidates) -> DevBatch:
    """Pack rows so that one pass scores every label and the row's own answer, if it has one."""
    packer, shared = _Packer(), shared_beginning(rows)
    prefix = (packer.add(rows[0].prompt[:shared]),) if shared else ()
    targets, continuations = _Targets(packer), []
    for index, row in enumerate(rows):
        start, stop = packer.add((*row.prompt[shared:], *candidates.shared), prefix)
        prompt, opened = (start, stop - len(candidates.shared)), (start, stop)
        if row.answer:
            own_answer = targets.add(row.answer, row.weights, (*prefix, prompt))
            continuations.append(Continuation(index, None, own_answer))
        for label, tokens in enumerate(candidates.own):
            candidate = targets.add(tokens, (0.0,) * len(tokens), (*prefix, opened))
            continuations.append(Continuation(index, label, candidate))
        if candidates.code is not None:
            lead = packer.add(candidates.code.lead, (*prefix, prompt))
            for label, token in enumerate(candidates.code.codes):
                place = targets.add((token,), (0.0,), (*prefix, prompt, lead))
                continuations.append(Continuation(index, label, place, code=True))
    batch = Batch(
        packer.pack(),
        torch.tensor(targets.places),
        torch.tensor(targets.tokens),
        torch.tensor(targets.weights, dtype=torch.float32),
        sum(row.length for row in rows),
    )
    return DevBatch(batch, tuple(continuations), tuple(rows))


def prompt_runs(pack: Pack, rows: Sequence[Row], shared: SharedTokens) -> list[tuple[int, int]]:
    """Where each row's own tokens of the prompt are in a pack of `training_batch`: [start, stop)."""
    prefix = pack.segments[0].stop if pack.segments[0].stop < len(rows[0].prompt) else 0
    before = ((0, prefix),) if prefix else ()
    starts = [each.start - prefix for each in pack.segments if each.before == before and each.start >= prefix]
    owns = [shared.own(len(row.prompt)) for row in rows]
    return [(at + start, at + stop) for at, (start, stop) in zip(starts, owns, strict=True)]


def rows_of_evaluation(config: Config) -> int:
    """Rows in one pack of an evaluation."""
    return max(DEV_ROWS, config.batch_size)


def epoch_order(rows: int, *, seed: int, epoch: int, unrated: int = 0) -> np.ndarray:
    """Order of the rows in an epoch; depends only on seed and epoch, so that a resumed run has the same order.

    The `unrated` rows, numbered after the others, are spread evenly among them: a step's loss is divided by the weights
    of its own rows, so one without a rated row would give the others their full weight.
    """
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(rows)
    if not unrated:
        return order
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in (rows, unrated)])
    return np.concatenate([order, rows + draw.permutation(unrated)])[np.argsort(place, kind="stable")]


def by_length(rows: Sequence[Row]) -> list[int]:
    """Indices of the rows, the shortest first: the order of an evaluation."""
    return sorted(range(len(rows)), key=lambda index: rows[index].length)


def groups_of(rows: Sequence[Row], order: Sequence[int] | np.ndarray, size: int) -> Iterator[list[Row]]:
    """Rows in `order`, `size` at a time; the short last group is kept."""
    for start in range(0, len(order), size):
        yield [rows[int(index)] for index in order[start : start + size]]
