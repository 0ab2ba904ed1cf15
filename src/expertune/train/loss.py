"""Weighted cross-entropy at the target places, and over the labels alone where they part; its gradient is computed in
the forward pass.

Axes: N target place · V vocabulary · D model width · M decision · K rival token.
"""

from __future__ import annotations

from typing import Any

import torch

from ..model.decoder import Decoder
from ..model.lm_head import LMHead
from ..model.memory import LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_CUDA
from .batches import Decisions


class TargetLoss(torch.autograd.Function):
    """Normalised hidden states (N, D) → sum of weight · −log p(target), and of the decisions' weighted cross-entropy.

    Logits exist only for one chunk of places.
    """

    @staticmethod
    def forward(
        ctx: Any,
        normed_ND: torch.Tensor,
        head: LMHead,
        targets_N: torch.Tensor,
        weights_N: torch.Tensor,
        decisions: Decisions | None,
    ) -> torch.Tensor:
        head_VD = head.weight.matrix()
        total = torch.zeros((), dtype=torch.float32, device=normed_ND.device)
        dnormed_ND = torch.empty_like(normed_ND)
        rows = _places_at_once(head)
        for start in range(0, normed_ND.shape[0], rows):
            chunk = slice(start, start + rows)
            logits_NV = head.finish(normed_ND[chunk] @ head_VD.t())
            slope_NV = head.slope(logits_NV)
            log_NV = torch.log_softmax(logits_NV, dim=-1)
            places_N1 = targets_N[chunk].unsqueeze(-1)
            total -= (log_NV.gather(-1, places_N1).squeeze(-1) * weights_N[chunk]).sum()
            dlogits_NV = log_NV.exp_()
            dlogits_NV.scatter_add_(-1, places_N1, torch.full_like(places_N1, -1, dtype=torch.float32))
            dlogits_NV.mul_(weights_N[chunk].unsqueeze(-1))
            if decisions is not None:
                total += _decide(decisions, logits_NV, start, dlogits_NV)
            if slope_NV is not None:
                dlogits_NV.mul_(slope_NV)
            dnormed_ND[chunk] = dlogits_NV.to(normed_ND.dtype) @ head_VD
        ctx.save_for_backward(dnormed_ND)
        return total

    @staticmethod
    def backward(ctx: Any, dtotal: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dnormed_ND,) = ctx.saved_tensors
        return dnormed_ND * dtotal.to(dnormed_ND.dtype), None, None, None, None


def _decide(decisions: Decisions, logits_NV: torch.Tensor, start: int, dlogits_NV: torch.Tensor) -> torch.Tensor:
    """Loss of the decisions in the chunk that begins at place `start`; adds their gradient to `dlogits_NV`.

    Those of other chunks add zero: a selection of unknown size would have the processor wait for the device.
    """
    found = decisions.to(logits_NV.device)
    rows_M = found.rows_M - start
    weights_M = found.weights_M * ((rows_M >= 0) & (rows_M < len(logits_NV)))
    where = (rows_M.clamp(0, len(logits_NV) - 1).unsqueeze(-1).expand_as(found.tokens_MK), found.tokens_MK)
    log_MK = torch.log_softmax(logits_NV[where] + found.offsets_MK, dim=-1)
    dlogits_NV.index_put_(where, (log_MK.exp() - found.shares_MK) * weights_M.unsqueeze(-1), accumulate=True)
    return -((log_MK * found.shares_MK).sum(-1) * weights_M).sum()


def _places_at_once(head: LMHead) -> int:
    on_cuda = head.weight.device.type == "cuda"
    return max(1, (LOGITS_AT_ONCE_ON_CUDA if on_cuda else LOGITS_AT_ONCE) // head.vocabulary)


def weighted_loss(
    decoder: Decoder,
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    decisions: Decisions | None = None,
) -> torch.Tensor:
    """Sum over the target places of weight · −log p(target), in nats; divide by the step's sum of weights.

    `decisions` add the cross-entropy between their target shares and the softmax over the rival tokens alone.
    """
    return TargetLoss.apply(decoder.last_norm(hidden_ND), decoder.head, targets_N, weights_N, decisions)


def log_probabilities(decoder: Decoder, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """log p(target) at each place, float32 (N,)."""
    rows = _places_at_once(decoder.head)
    chunks = [
        torch.log_softmax(decoder.logits(some_ND), dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        for some_ND, targets in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    ]
    return torch.cat(chunks)
