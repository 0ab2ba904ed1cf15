"""A look at the dev rows with the model in training: loss, labels, macro-F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..model.load import Tunable
from .batches import dev_batch, groups_of
from .encode import Candidates, Row
from .loss import log_probabilities


@dataclass(frozen=True)
class DevLook:
    """Mean weighted loss in nats per target token, and how the predicted labels stand against the expert's."""

    loss: float
    macro_f1: float
    accuracy: float
    predicted: tuple[int, ...]


def look(tunable: Tunable, rows: Sequence[Row], candidates: Candidates, *, batch_size: int) -> DevLook:
    """Score every row's own answer and every label in one pass over its prompt."""
    total, weight, predicted = 0.0, 0.0, []
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    for group in groups_of(rows, order, batch_size):
        loss, group_weight, labels = _look_at(tunable, group, candidates)
        total, weight = total + loss, weight + group_weight
        predicted += labels
    by_row = [label for _, label in sorted(zip(order, predicted, strict=True))]
    truth = [row.label for row in rows]
    accuracy = sum(a == b for a, b in zip(truth, by_row, strict=True)) / max(1, len(rows))
    return DevLook(total / max(weight, 1e-9), macro_f1(truth, by_row), accuracy, tuple(by_row))


@torch.no_grad()
def _look_at(tunable: Tunable, rows: Sequence[Row], candidates: Candidates) -> tuple[float, float, list[int]]:
    made = dev_batch(rows, candidates)
    device, labels = tunable.placement.device, len(candidates.own)
    hidden_ND = tunable.decoder.hidden(made.batch.pack, made.batch.places_N)
    log_N = log_probabilities(tunable.decoder, hidden_ND, made.batch.targets_N.to(device)).cpu()
    owner_N = made.owner_N
    own_answer_N = owner_N % (1 + labels) == 0
    weights_N = made.batch.weights_N * own_answer_N
    scores = torch.zeros(len(rows) * (1 + labels)).index_add_(0, owner_N, log_N).view(len(rows), 1 + labels)[:, 1:]
    return -float((log_N * weights_N).sum()), float(weights_N.sum()), scores.argmax(-1).tolist()


def macro_f1(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Mean F1 over the labels that occur in either; 0 for no rows."""
    scores = []
    for label in sorted({*truth, *predicted}):
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        scores.append(2 * hits / (sum(t == label for t in truth) + sum(p == label for p in predicted)))
    return sum(scores) / len(scores) if scores else 0.0
