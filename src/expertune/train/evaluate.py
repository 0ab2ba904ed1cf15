"""Evaluate the model in training on the dev rows: loss, labels, macro-F1.

Axes: N target place · R row · K label · C continuation · S way of scoring (words, code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..model.decoder import Decoder
from ..model.load import Tunable
from ..model.states import pack_groups
from ..stats.metrics import confusion, macro_f1
from .batches import DevBatch, by_length, dev_batch, groups_of, shared_beginning
from .encode import Candidates, Row
from .loss import log_probabilities
from .ranks import ALONE, Ranks
from .rows import dev_rows
from .trunk import Trunk

ROWS_ON_CUDA = 64  # in one batch; kernels of fewer rows end before the next ones are started
# of the prompts in one pack when rating, without their common beginning: few-shot examples may take most of a prompt
OWN_TOKENS, OWN_TOKENS_ON_CUDA = 4096, 32_768


@dataclass(frozen=True)
class DevEvaluation:
    """Loss and labels of the model in training on the dev rows.

    `loss` is the mean weighted loss of a target token, `rationale_loss` the mean unweighted loss of a rationale's token
    (None without rationales), `label_loss` the mean of −log p(the expert's label) among the labels; all in nats.
    They are those of the words; `code_log_RK` has the labels' log-probabilities by their codes (None without them).
    """

    loss: float
    label_loss: float
    rationale_loss: float | None
    macro_f1: float
    accuracy: float
    log_probabilities_RK: torch.Tensor
    code_log_RK: torch.Tensor | None = None


@dataclass(frozen=True)
class _Sums:
    """Sums over the tokens of some rows, and the scores of their labels."""

    loss: float
    weight: float
    rationale_loss: float
    rationale_tokens: int
    scores_RSK: torch.Tensor


def evaluate(
    tunable: Tunable,
    rows: Sequence[Row],
    candidates: Candidates,
    *,
    batch_size: int,
    trunk: Trunk | None = None,
    ranks: Ranks = ALONE,
) -> DevEvaluation:
    """Score every row's own answer and every label in one pass over its prompt; `trunk` holds the packs' lower part.

    The `ranks` share the packs, and all of them get the same figures.
    """
    order, fills_rows = by_length(rows), tunable.decoder.fills_rows
    groups = list(groups_of(rows, order, max(batch_size, ROWS_ON_CUDA) if fills_rows else batch_size))
    made = dev_rows if fills_rows else dev_batch
    parts = ranks.gather([_score(tunable, made(group, candidates), candidates, trunk) for group in ranks.share(groups)])
    scores_RSK = torch.empty(len(rows), *parts[0].scores_RSK.shape[1:])
    scores_RSK[order] = torch.cat([part.scores_RSK for part in parts])
    log_RSK = torch.log_softmax(scores_RSK, dim=-1)
    log_RK = log_RSK[:, 0]
    truth = [row.label for row in rows]
    predicted = log_RK.argmax(-1).tolist()
    tokens = sum(part.rationale_tokens for part in parts)
    return DevEvaluation(
        loss=sum(part.loss for part in parts) / max(sum(part.weight for part in parts), 1e-9),
        label_loss=-float(log_RK[torch.arange(len(rows)), truth].mean()),
        rationale_loss=sum(part.rationale_loss for part in parts) / tokens if tokens else None,
        macro_f1=float(macro_f1(confusion(truth, predicted, len(candidates.own)))),
        accuracy=sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(rows),
        log_probabilities_RK=log_RK,
        code_log_RK=log_RSK[:, 1] if candidates.code is not None else None,
    )


def label_log_probs(decoder: Decoder, prompts: Sequence[Sequence[int]], candidates: Candidates) -> torch.Tensor:
    """Natural-log probability of each label's own tokens after each prompt, float32 (R, K)."""
    rows = [Row("", 0, tuple(prompt), (), ()) for prompt in prompts]
    made, shared = (dev_rows, 0) if decoder.fills_rows else (dev_batch, shared_beginning(rows))
    limit = shared + (OWN_TOKENS_ON_CUDA if decoder.device.type == "cuda" else OWN_TOKENS)
    scores_RK = torch.empty(len(rows), len(candidates.own))
    for group in pack_groups(by_length(rows), list(map(len, prompts)), shared, limit):
        _, scores_RSK = _log_probs(decoder, made([rows[at] for at in group], candidates), candidates, None)
        scores_RK[group] = scores_RSK[:, 0]
    return scores_RK


@torch.no_grad()
def _log_probs(
    decoder: Decoder, made: DevBatch, candidates: Candidates, trunk: Trunk | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each target, (N,), and of each row's labels by each way, (R, S, K)."""
    batch = made.batch
    hidden_ND = decoder.hidden(batch.pack, batch.places_N, trunk and trunk.start(batch.pack))
    log_N = log_probabilities(decoder, hidden_ND, batch.targets_N.to(decoder.device)).cpu()
    log_C = torch.zeros(len(made.continuations)).index_add_(0, made.continuation_N, log_N)
    ways = 1 if candidates.code is None else 2
    scores_RSK = torch.empty(len(made.rows), ways, len(candidates.own))
    for each, log_of_answer in zip(made.continuations, log_C.tolist(), strict=True):
        if each.label is not None:
            scores_RSK[each.row, int(each.code), each.label] = log_of_answer
    return log_N, scores_RSK


def _score(tunable: Tunable, made: DevBatch, candidates: Candidates, trunk: Trunk | None) -> _Sums:
    batch, rows = made.batch, made.rows
    log_N, scores_RSK = _log_probs(tunable.decoder, made, candidates, trunk)
    rationale_M = torch.cat(
        [log_N[each.targets][slice(*rows[each.row].rationale)] for each in made.continuations if each.label is None]
    )
    return _Sums(
        loss=-float((log_N * batch.weights_N).sum()),
        weight=float(batch.weights_N.sum()),
        rationale_loss=-float(rationale_M.sum()),
        rationale_tokens=len(rationale_M),
        scores_RSK=scores_RSK,
    )
