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
    """How the model in training rates the dev rows; N row, K label.

    `loss` is the mean weighted loss of a target token, `rationale_loss` that of a rationale's token unweighted (None
    without rationales), `label_loss` the mean of −log p(the expert's label) among the labels; all in nats.
    """

    loss: float
    label_loss: float
    rationale_loss: float | None
    macro_f1: float
    accuracy: float
    predicted: tuple[int, ...]
    log_probabilities_NK: torch.Tensor


@dataclass(frozen=True)
class _Scored:
    """Sums over the tokens of some rows, and their labels' scores."""

    loss: float
    weight: float
    rationale_loss: float
    rationale_tokens: int
    scores_NK: torch.Tensor


def look(tunable: Tunable, rows: Sequence[Row], candidates: Candidates, *, batch_size: int) -> DevLook:
    """Score every row's own answer and every label in one pass over its prompt."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    parts = [_score(tunable, group, candidates) for group in groups_of(rows, order, batch_size)]
    scores_NK = torch.empty(len(rows), len(candidates.own))
    scores_NK[order] = torch.cat([part.scores_NK for part in parts])
    log_NK = torch.log_softmax(scores_NK, dim=-1)
    truth = [row.label for row in rows]
    predicted = log_NK.argmax(-1).tolist()
    tokens = sum(part.rationale_tokens for part in parts)
    return DevLook(
        loss=sum(part.loss for part in parts) / max(sum(part.weight for part in parts), 1e-9),
        label_loss=-float(log_NK[torch.arange(len(rows)), truth].mean()),
        rationale_loss=sum(part.rationale_loss for part in parts) / tokens if tokens else None,
        macro_f1=macro_f1(truth, predicted),
        accuracy=sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(rows),
        predicted=tuple(predicted),
        log_probabilities_NK=log_NK,
    )


@torch.no_grad()
def _score(tunable: Tunable, rows: Sequence[Row], candidates: Candidates) -> _Scored:
    made = dev_batch(rows, candidates)
    device, labels = tunable.placement.device, len(candidates.own)
    hidden_ND = tunable.decoder.hidden(made.batch.pack, made.batch.places_N)
    log_N = log_probabilities(tunable.decoder, hidden_ND, made.batch.targets_N.to(device)).cpu()
    own_answer_N = made.owner_N % (1 + labels) == 0
    weights_N = made.batch.weights_N * own_answer_N
    log_of_answers = log_N[own_answer_N].split([len(row.answer) for row in rows])
    reasons = torch.cat([log_A[slice(*row.rationale)] for log_A, row in zip(log_of_answers, rows, strict=True)])
    scores_NK = torch.zeros(len(rows) * (1 + labels)).index_add_(0, made.owner_N, log_N).view(len(rows), 1 + labels)
    return _Scored(
        -float((log_N * weights_N).sum()), float(weights_N.sum()), -float(reasons.sum()), len(reasons), scores_NK[:, 1:]
    )


def macro_f1(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Mean F1 over the labels that occur in either; 0 for no rows."""
    scores = []
    for label in sorted({*truth, *predicted}):
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        scores.append(2 * hits / (sum(t == label for t in truth) + sum(p == label for p in predicted)))
    return sum(scores) / len(scores) if scores else 0.0
