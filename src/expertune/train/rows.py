"""Batches as rows of one length, filled up at their ends: the form that fused kernels and CUDA graphs take.

Lengths and target places are rounded up, so that few shapes occur. The filling belongs to no target.

Axes: B row · L token of a row · N target place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..model.attention import Segment
from ..model.forward_context import Pack
from .batches import Batch, Continuation, DevBatch, LabelOffsets, Offsets, offsets_of
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
    rows: Sequence[Row], class_weights: Sequence[float], adjustment: Sequence[LabelOffsets] = ()
) -> Batch:
    """The same targets as `batches.training_batch`, then targets without weight up to a round number."""
    pack = pack_of([(*row.prompt, *row.answer[:-1]) for row in rows])
    places, targets, weights = [], [], []
    for index, row in enumerate(rows):
        start = index * pack.row_length + len(row.prompt) - 1
        places += range(start, start + len(row.answer))
        targets += row.answer
        weights += [weight * class_weights[row.label] for weight in row.weights]
    fill = [0] * (-len(places) % max(PLACES, 4 * len(rows)))
    return Batch(
        pack,
        torch.tensor(places + fill),
        torch.tensor(targets + fill),
        torch.tensor(weights + fill, dtype=torch.float32),
        sum(row.length for row in rows),
        _filled(offsets_of(rows, adjustment), len(rows) * max(map(len, adjustment))) if adjustment else None,
    )


def _filled(offsets: Offsets, count: int) -> Offsets:
    """Add zeros up to `count` offsets."""
    fill = (0, count - len(offsets.rows_M))
    return Offsets(
        *(torch.nn.functional.pad(each, fill) for each in (offsets.rows_M, offsets.tokens_M, offsets.values_M))
    )


def dev_rows(rows: Sequence[Row], candidates: Candidates) -> DevBatch | None:
    """The same continuations as `batches.dev_batch`; None unless one place of a row scores all its labels.

    That is so where each label is decided by its first own token, and the row's answer begins as the candidates do.
    """
    opening = candidates.shared
    if any(len(own) > 1 for own in candidates.own) or any(row.answer[: len(opening)] != opening for row in rows):
        return None
    pack = pack_of([(*row.prompt, *row.answer[:-1]) for row in rows])
    places, tokens, weights, continuations = [], [], [], []
    for index, row in enumerate(rows):
        first = index * pack.row_length + len(row.prompt) - 1
        answers = [(None, first, row.answer, row.weights)]
        answers += [(label, first + len(opening), own, (0.0,)) for label, own in enumerate(candidates.own)]
        for label, place, answer, of_token in answers:
            start = len(tokens)
            places += range(place, place + len(answer))
            tokens += answer
            weights += of_token
            continuations.append(Continuation(index, label, slice(start, len(tokens))))
    batch = Batch(
        pack,
        torch.tensor(places),
        torch.tensor(tokens),
        torch.tensor(weights, dtype=torch.float32),
        sum(row.length for row in rows),
    )
    return DevBatch(batch, tuple(continuations), tuple(rows))
