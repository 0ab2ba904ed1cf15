"""The decoder: embeddings, blocks, last norm. Tokens go in packed, hidden states come out packed.

The residual stream is float32; products run in the compute type (bfloat16 or float32).
Axes: T token · D model width · N target place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from .arch import Spec
from .attention import Attention, Heads, Piece, Segment, pieces_of
from .linear import Linear, NormLinear, Stack, SwigluLinear, rms_scale
from .weights import Embedding, FrozenWeight


@dataclass(frozen=True)
class Pack:
    """Rows behind each other. `positions_T` counts from 0 in each row's own text; `segments` say who sees whom."""

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Block:
    """One layer: attention and feed-forward, each behind its norm."""

    attention_norm_D: torch.Tensor
    qkv: Stack
    output: Stack
    feed_forward_norm_D: torch.Tensor
    gate_up: Stack
    down: Stack


class Decoder:
    """A GGUF's decoder with LoRA on its linear layers. Made by `model.load`."""

    def __init__(
        self,
        spec: Spec,
        *,
        embedding: Embedding,
        blocks: Sequence[Block],
        norm_D: torch.Tensor,
        head: FrozenWeight,
        dtype: torch.dtype,
        device: torch.device,
        recompute: bool,
    ) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.head = head
        self.recompute = recompute
        self._embedding, self._blocks, self._norm_D = embedding, tuple(blocks), norm_D
        self._heads = Heads(spec.heads, spec.kv_heads, spec.head_width, spec.attention_scale)
        self._frequencies_W = torch.tensor(spec.frequencies_F, dtype=torch.float64)
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def hidden(self, pack: Pack, places_N: torch.Tensor) -> torch.Tensor:
        """Hidden states before the last norm at some places of the pack, float32 (N, D).

        The last block needs keys and values of all tokens, but the rest of it at these places only.
        """
        x_TD = self._embedding.rows(pack.tokens_T).to(self.device)
        turn_TW = self._turns(pack.positions_T)
        wanted_N, order_N = torch.unique(places_N.cpu(), return_inverse=True)
        all_pieces, last_pieces = (
            pieces_of(pack.segments, wanted, self._heads, dtype=self.dtype, device=self.device)
            for wanted in (None, wanted_N)
        )
        # a round number of places, for the matrix library's sake; nothing asks for the added ones
        rounded_N = torch.cat([wanted_N, wanted_N.new_zeros(-len(wanted_N) % 32)])
        last = len(self._blocks) - 1
        for index, block in enumerate(self._blocks):
            pieces, wanted = (last_pieces, rounded_N) if index == last else (all_pieces, None)
            step = (block, x_TD, turn_TW, pieces, wanted)
            if self.recompute and torch.is_grad_enabled():
                x_TD = checkpoint(self._block, *step, use_reentrant=False)
            else:
                x_TD = self._block(*step)
        return x_TD[order_N.to(self.device)]

    def last_norm(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The input of the output head, in the compute type (N, D)."""
        return (x_ND * rms_scale(x_ND, self.spec.epsilon) * self._norm_D).to(self.dtype)

    def logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Hidden states of the wanted places → float32 logits (N, V)."""
        return (self.last_norm(x_ND) @ self.head.matrix().t()).float()

    def _block(
        self,
        block: Block,
        x_TD: torch.Tensor,
        turn_TW: torch.Tensor,
        pieces: tuple[Piece, ...],
        wanted_N: torch.Tensor | None,
    ) -> torch.Tensor:
        epsilon = self.spec.epsilon
        qkv_TE = NormLinear.apply(x_TD, self._anchor, block.attention_norm_D, epsilon, block.qkv, self.dtype)
        mixed_TE = Attention.apply(qkv_TE, turn_TW, pieces, self._heads, len(x_TD if wanted_N is None else wanted_N))
        if wanted_N is not None:
            x_TD = x_TD[wanted_N.to(self.device)]
        x_TD = x_TD + Linear.apply(mixed_TE, self._anchor, block.output)
        gate_up_TF = NormLinear.apply(x_TD, self._anchor, block.feed_forward_norm_D, epsilon, block.gate_up, self.dtype)
        return x_TD + SwigluLinear.apply(gate_up_TF, self._anchor, block.down)

    def _turns(self, positions_T: torch.Tensor) -> torch.Tensor:
        angles_TW = positions_T.to(torch.float64).unsqueeze(-1) * self._frequencies_W
        gain_TW = torch.full_like(angles_TW, self.spec.rope_gain)
        return torch.polar(gain_TW, angles_TW).to(torch.complex64).to(self.device)
