"""The decoder: embeddings, blocks, output norm. Packed tokens in, packed hidden states out.

The residual stream is float32; matrix multiplications run in the compute dtype (bfloat16 or float32).
Axes: T token · D model width · N target place · L layer · P per-layer embedding · F rotated pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.checkpoint import checkpoint

from .attention import QueryBlock, make_query_blocks
from .block import Block
from .config import Heads, LayerConfig, ModelConfig, Rope
from .forward_context import ForwardContext, Pack, places_before
from .lm_head import LMHead
from .norm import Norm
from .sdpa import is_fused, row_masks, suits_rows
from .target_modules import trunk_blocks
from .weights import Embedding, FrozenWeight


@dataclass(frozen=True)
class PerLayerEmbeddings:
    """Gemma's per-layer embeddings: a table of their own plus a projection of the token embedding, for every layer."""

    table: Embedding
    projection: FrozenWeight
    norm: Norm
    width: int

    def of(self, tokens_T: torch.Tensor, x_TD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(T, L, P), float32; `x_TD` are the scaled embeddings."""
        table_TLP = self.table.rows(tokens_T).to(x_TD.device).unflatten(-1, (-1, self.width)) * self.width**0.5
        projected_TE = (x_TD.to(dtype) @ self.projection.matrix().t()).float() * x_TD.shape[-1] ** -0.5
        return (table_TLP + self.norm.forward(projected_TE.unflatten(-1, (-1, self.width)))) * 0.5**0.5


class Decoder:
    """A GGUF's decoder with LoRA on its linear layers. Made by `model.load`."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: Embedding,
        per_layer_embeddings: PerLayerEmbeddings | None,
        blocks: Sequence[Block],
        norm: Norm,
        head: LMHead,
        dtype: torch.dtype,
        device: torch.device,
        first_adapted: int,
        recompute: bool,
    ) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self.head = head
        self.recompute = recompute
        self.first_adapted, self.trunk_blocks = first_adapted, trunk_blocks(config, first_adapted)
        self._embedding, self._per_layer_embeddings = embedding, per_layer_embeddings
        self._blocks, self._norm = tuple(blocks), norm
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self.fills_rows = device.type == "cuda" and suits_rows(config)

    def trunk(self, pack: Pack) -> torch.Tensor:
        """Residual stream after the lowest `trunk_blocks` blocks, float32 (T, D); no adapter changes it."""
        x_TD = self._embed(pack.tokens_T)
        if self.trunk_blocks:
            with torch.no_grad():  # `_anchor` would make autograd run through them
                context = self._context(pack)
                for block in self._blocks[: self.trunk_blocks]:
                    x_TD = block.forward(x_TD, context)
        return x_TD

    def hidden(self, pack: Pack, places_N: torch.Tensor, start_TD: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states before the output norm at `places_N` of the pack, float32 (N, D).

        The last block computes keys and values for all tokens, everything else at these places only. `start_TD` is the
        result of `trunk` if it is known.
        """
        if pack.row_length:
            return self.hidden_of_rows(self.rows_context(pack), pack.tokens_T, places_N.to(self.device))
        x_TD = self.trunk(pack) if start_TD is None else start_TD.to(self.device).float()
        wanted_N, order_N = torch.unique(places_N.cpu(), return_inverse=True)
        whole = self._context(pack)
        # rounded up: the CPU's matrix library prepares itself for each new size; the added places are never read
        rounded_N = torch.cat([wanted_N, wanted_N.new_zeros(-len(wanted_N) % 32)])
        last = replace(
            whole,
            query_blocks=self._query_blocks(pack, self.config.layers[-1:], wanted_N),
            wanted_N=rounded_N.to(self.device),
            count=len(rounded_N),
        )
        return self._run(x_TD, self.trunk_blocks, whole, last)[order_N.to(self.device)]

    def rows_context(self, pack: Pack) -> ForwardContext:
        """Everything about rows of one length except their tokens: packs of the same shape share it."""
        mask_B1LL = row_masks(pack.segments, pack.row_length, len(pack.tokens_T) // pack.row_length)
        return replace(self._context(pack), mask_B1LL=None if mask_B1LL is None else mask_B1LL.to(self.device))

    def hidden_of_rows(self, context: ForwardContext, tokens_T: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
        """`hidden` for a pack of rows of one length, on the device alone: nothing here waits for it."""
        last = replace(context, wanted_N=places_N, count=len(places_N))
        return self._run(self._embed(tokens_T), 0, context, last)

    def _run(self, x_TD: torch.Tensor, first: int, whole: ForwardContext, last: ForwardContext) -> torch.Tensor:
        """Blocks from `first` on; those without an adapter below them carry no gradient."""
        for index, block in enumerate(self._blocks[first:], first):
            context = last if block is self._blocks[-1] else whole
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.first_adapted):
                if self.recompute and torch.is_grad_enabled():
                    x_TD = checkpoint(block.forward, x_TD, context, use_reentrant=False)
                else:
                    x_TD = block.forward(x_TD, context)
        return x_TD

    @torch.no_grad()
    def states(self, pack: Pack, depths: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Residual stream of all tokens after so many blocks, float32 (T, D), for each of the ascending `depths`.

        No block above the deepest is computed.
        """
        x_TD, context, found = self._embed(pack.tokens_T), self._context(pack), []
        for depth, block in enumerate(self._blocks[: depths[-1]], start=1):
            x_TD = block.forward(x_TD, context)
            if depth in depths:
                found.append(x_TD)
        return tuple(found)

    def last_norm(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Output norm: the input of the output head, in the compute dtype (N, D)."""
        return self._norm.forward(x_ND).to(self.dtype)

    def logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Hidden states of the wanted places → float32 logits (N, V)."""
        return self.head.logits(self.last_norm(x_ND))

    def _embed(self, tokens_T: torch.Tensor) -> torch.Tensor:
        x_TD = self._embedding.rows(tokens_T).to(self.device)
        return x_TD if self.config.embedding_scale == 1.0 else x_TD.mul_(self.config.embedding_scale)

    def _context(self, pack: Pack) -> ForwardContext:
        """Make what all blocks share; `shared_kv` is empty at first."""
        layers, own = self.config.layers, self._per_layer_embeddings
        back = max(layer.conv_kernel for layer in layers) - 1
        return ForwardContext(
            dtype=self.dtype,
            anchor=self._anchor,
            segments=pack.segments,
            query_blocks=self._query_blocks(pack, layers, None),
            rotations={
                rope: self._rotation(rope, pack.positions_T) for rope in {layer.rope for layer in layers} if rope
            },
            before_TK=places_before(pack.segments, len(pack.tokens_T), max(0, back)).to(self.device),
            per_layer_TLP=None if own is None else own.of(pack.tokens_T, self._embed(pack.tokens_T), self.dtype),
            shared_kv_layers=frozenset(layer.kv_shared_with for layer in layers),
            wanted_N=None,
            count=len(pack.tokens_T),
            row_length=pack.row_length,
        )

    def _query_blocks(
        self, pack: Pack, layers: Sequence[LayerConfig], wanted_N: torch.Tensor | None
    ) -> dict[Heads, tuple[QueryBlock, ...]]:
        return {
            heads: make_query_blocks(pack.segments, wanted_N, heads, dtype=self.dtype, device=self.device)
            for heads in {layer.heads for layer in layers if not layer.conv_kernel}
            if not is_fused(heads, pack.row_length)
        }

    def _rotation(self, rope: Rope, positions_T: torch.Tensor) -> torch.Tensor:
        """cos + i · sin of each position and pair, complex64 (T, F)."""
        where = self.device if self.device.type == "cuda" else "cpu"  # other devices have no float64
        inv_freq_F = torch.tensor(rope.inv_freq_F, dtype=torch.float64, device=where)
        angles_TF = positions_T.to(where).to(torch.float64).unsqueeze(-1) * inv_freq_F
        attention_factor_TF = torch.full_like(angles_TF, rope.attention_factor)
        return torch.polar(attention_factor_TF, angles_TF).to(torch.complex64).to(self.device)
