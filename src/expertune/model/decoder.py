"""The decoder: embeddings, blocks, last norm. Tokens go in packed, hidden states come out packed.

The residual stream is float32; products run in the compute type (bfloat16 or float32).
Axes: T token · D model width · N target place · L layer · P width of a layer's own input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.checkpoint import checkpoint

from .attention import Piece, pieces_of
from .block import Block
from .config import Heads, LayerConfig, ModelConfig, Rope
from .forward_context import ForwardContext, Pack, places_before
from .lm_head import LMHead
from .norm import Norm
from .weights import Embedding, FrozenWeight


@dataclass(frozen=True)
class OwnInputs:
    """What each layer is told of a token beside the stream: rows of a table, and a projection of the embedding."""

    table: Embedding
    projection: FrozenWeight
    norm: Norm
    width: int

    def of(self, tokens_T: torch.Tensor, x_TD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(T, L, P), float32; `x_TD` are the scaled embeddings."""
        told_TLP = self.table.rows(tokens_T).to(x_TD.device).unflatten(-1, (-1, self.width)) * self.width**0.5
        seen_TE = (x_TD.to(dtype) @ self.projection.matrix().t()).float() * x_TD.shape[-1] ** -0.5
        return (told_TLP + self.norm.forward(seen_TE.unflatten(-1, (-1, self.width)))) * 0.5**0.5


class Decoder:
    """A GGUF's decoder with LoRA on its linear layers. Made by `model.load`."""

    def __init__(
        self,
        spec: ModelConfig,
        *,
        embedding: Embedding,
        own_inputs: OwnInputs | None,
        blocks: Sequence[Block],
        norm: Norm,
        head: LMHead,
        dtype: torch.dtype,
        device: torch.device,
        recompute: bool,
    ) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.head = head
        self.recompute = recompute
        self._embedding, self._own_inputs, self._blocks, self._norm = embedding, own_inputs, tuple(blocks), norm
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def hidden(self, pack: Pack, places_N: torch.Tensor) -> torch.Tensor:
        """Hidden states before the last norm at some places of the pack, float32 (N, D).

        The last block needs keys and values of all tokens, but the rest of it at these places only.
        """
        x_TD = self._embedding.rows(pack.tokens_T).to(self.device)
        if self.spec.embedding_scale != 1.0:
            x_TD.mul_(self.spec.embedding_scale)
        wanted_N, order_N = torch.unique(places_N.cpu(), return_inverse=True)
        whole = self._flow(pack, x_TD)
        # a round number of places, for the matrix library's sake; nothing asks for the added ones
        rounded_N = torch.cat([wanted_N, wanted_N.new_zeros(-len(wanted_N) % 32)])
        pieces = self._pieces(pack, self.spec.layers[-1:], wanted_N)
        end = replace(whole, pieces=pieces, wanted_N=rounded_N.to(self.device), count=len(rounded_N))
        for block in self._blocks:
            flow = end if block is self._blocks[-1] else whole
            if self.recompute and torch.is_grad_enabled():
                x_TD = checkpoint(block.forward, x_TD, flow, use_reentrant=False)
            else:
                x_TD = block.forward(x_TD, flow)
        return x_TD[order_N.to(self.device)]

    def last_norm(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The input of the output head, in the compute type (N, D)."""
        return self._norm.forward(x_ND).to(self.dtype)

    def logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Hidden states of the wanted places → float32 logits (N, V)."""
        return self.head.logits(self.last_norm(x_ND))

    def _flow(self, pack: Pack, x_TD: torch.Tensor) -> ForwardContext:
        """What all blocks share; the `keys` that they lend each other are empty yet."""
        layers = self.spec.layers
        back = max(layer.taps for layer in layers) - 1
        return ForwardContext(
            dtype=self.dtype,
            anchor=self._anchor,
            segments=pack.segments,
            pieces=self._pieces(pack, layers, None),
            turns={rope: self._turn(rope, pack.positions_T) for rope in {layer.rope for layer in layers} if rope},
            before_TK=places_before(pack.segments, len(x_TD), max(0, back)).to(self.device),
            inputs_TLP=None if self._own_inputs is None else self._own_inputs.of(pack.tokens_T, x_TD, self.dtype),
            lenders=frozenset(layer.keys_of for layer in layers),
            wanted_N=None,
            count=len(x_TD),
        )

    def _pieces(
        self, pack: Pack, layers: Sequence[LayerConfig], wanted_N: torch.Tensor | None
    ) -> dict[Heads, tuple[Piece, ...]]:
        return {
            heads: pieces_of(pack.segments, wanted_N, heads, dtype=self.dtype, device=self.device)
            for heads in {layer.heads for layer in layers if not layer.taps}
        }

    def _turn(self, rope: Rope, positions_T: torch.Tensor) -> torch.Tensor:
        """cos + i · sin of each position and pair, complex64 (T, F)."""
        frequencies_F = torch.tensor(rope.frequencies_F, dtype=torch.float64)
        angles_TF = positions_T.cpu().to(torch.float64).unsqueeze(-1) * frequencies_F
        gain_TF = torch.full_like(angles_TF, rope.gain)
        return torch.polar(gain_TF, angles_TF).to(torch.complex64).to(self.device)
