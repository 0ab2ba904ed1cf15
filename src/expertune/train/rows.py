"""Batches as rows of one length, filled up at their ends: the form that fused kernels and CUDA graphs take.

Lengths and target places are rounded up, so that few shapes occur. The filling belongs to no target.

Axes: B row · L token of a row · N target place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch

from ..model.attention import Segment
from ..model.forward_context import Pack
from .batches import NO_RIVAL, Batch, Continuation, Decisions, DevBatch, decisions_of, dev_batch
from .class_balance import Decision
from .code_branch import CodeTokens
from .encode import Candidates, Row

PLACES = 32  # target places are rounded up to a multiple of this, or of the number of rows


def rounded_length(longest: int) -> int:
    """Round up to a multiple of 32, from 512 on to an eighth or less."""
    step = max(32, (1 << longest.bit_length()) >> 4)
    return -(-longest // step) * step


def pack_of(texts: Sequence[Sequence[int]]) -> Pack:
    """One row for each text."""
    length = rounded_length(max(map(len, texts)))
    tokens_BL = np.zeros((len(texts), length), dtype=np.int64)
    for row_L, text in zip(tokens_BL, texts, strict=True):
        row_L[: len(text)] = text
    segments = tuple(Segment(start, start + length) for start in range(0, tokens_BL.size, length))
    positions_T = torch.arange(length).repeat(len(texts))
    return Pack(torch.from_numpy(tokens_BL).flatten(), positions_T, segments, length)


def training_rows(
    rows: Sequence[Row],
    class_weights: Sequence[float],
    decisions: Mapping[str, Sequence[Decision]] | None = None,
    *,
    code: CodeTokens | None = None,
    code_weight: float = 0.0,
) -> Batch:
    """The same targets as `batches.training_batch`, then targets without weight up to a round number.

    A code's lead has a row of its own with the prompt again: a graph's rows are plain texts (cuda_graph).
    """
    leads = [(*row.prompt, *code.lead) for row in rows] if code else []
    pack = pack_of([*((*row.prompt, *row.answer[:-1]) for row in rows), *leads])
    places, targets, weights = [], [], []
    for index, row in enumerate(rows):
        start = index * pack.row_length + len(row.prompt) - 1
        places += range(start, start + len(row.answer))
        targets += row.answer
        weights += [weight * class_weights[row.label] for weight in row.weights]
        if code is not None:
            places.append((len(rows) + index) * pack.row_length + len(leads[index]) - 1)
            targets += (code.codes[row.label],)
            weights.append(code_weight * class_weights[row.label] * row.rated)
    fill = [0] * (-len(places) % max(PLACES, 4 * len(rows)))
    return Batch(
        pack,
        torch.tensor(places + fill),
        torch.tensor(targets + fill),
        torch.tensor(weights + fill, dtype=torch.float32),
        sum(row.length for row in rows),
        _filled(rows, decisions, code is not None) if decisions else None,
    )


def _filled(rows: Sequence[Row], decisions: Mapping[str, Sequence[Decision]], codes: bool) -> Decisions:
    """The decisions of the rows, then some without weight, up to the most that so many rows can have."""
    found = decisions_of(rows, decisions, codes=codes)
    most = max(map(len, decisions.values()))
    rivals = max(len(each.tokens) for own in decisions.values() for each in own)
    down, right = len(rows) * most - len(found.rows_M), rivals - found.tokens_MK.shape[1]
    pad = torch.nn.functional.pad
    return Decisions(
        pad(found.rows_M, (0, down)),
        pad(found.tokens_MK, (0, right, 0, down)),
        pad(found.offsets_MK, (0, right, 0, down), value=NO_RIVAL),
        pad(found.shares_MK, (0, right, 0, down)),
        pad(found.weights_M, (0, down)),
    )


def dev_rows(rows: Sequence[Row], candidates: Candidates) -> DevBatch:
    """The same continuations as `batches.dev_batch`, each record's prompt and answers in a row of their own."""
    alone = [dev_batch([row], candidates) for row in rows]
    length = rounded_length(max(len(each.batch.pack.tokens_T) for each in alone))
    starts = range(0, length * len(rows), length)
    targets = accumulate((len(each.batch.targets_N) for each in alone), initial=0)
    tokens_T, positions_T = (
        torch.cat([torch.nn.functional.pad(own_T, (0, length - len(own_T))) for own_T in each_T])
        for each_T in zip(*((each.batch.pack.tokens_T, each.batch.pack.positions_T) for each in alone), strict=True)
    )
    segments = [
        segment
        for each, by in zip(alone, starts, strict=True)
        for segment in _row(each.batch.pack.segments, by, length)
    ]
    batch = Batch(
        Pack(tokens_T, positions_T, tuple(segments), length),
        torch.cat([each.batch.places_N + by for each, by in zip(alone, starts, strict=True)]),
        torch.cat([each.batch.targets_N for each in alone]),
        torch.cat([each.batch.weights_N for each in alone]),
        sum(row.length for row in rows),
    )
    continuations = [
        Continuation(index, own.label, slice(own.targets.start + by, own.targets.stop + by), own.code)
        for index, (each, by) in enumerate(zip(alone, targets, strict=False))
        for own in each.continuations
    ]
    return DevBatch(batch, tuple(continuations), tuple(rows))


def _row(segments: Sequence[Segment], by: int, length: int) -> Iterator[Segment]:
    """The segments of one row that begins at `by`; the filling is one too, so that they leave no gap."""
    for each in segments:
        yield Segment(each.start + by, each.stop + by, tuple((start + by, stop + by) for start, stop in each.before))
    if segments[-1].stop < length:
        yield Segment(segments[-1].stop + by, by + length)
