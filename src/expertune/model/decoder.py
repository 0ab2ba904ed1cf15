"""The decoder: embeddings, blocks, last norm. Tokens go in packed, hidden states come out packed.

The residual stream is float32; products run in the compute type (bfloat16 or float32).
Axes: T token · D model width · N target place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from .attention import Attention, Piece, Segment, Turned, pieces_of
from .feed_forward import ActivatedLinear, Activation, Mixture, Routed
from .head import Head
from .linear import Linear, NormLinear, Stack
from .norm import Norm, Normed
from .spec import Heads, Layer, Rope, Spec
from .weights import Embedding


@dataclass(frozen=True)
class Pack:
    """Rows behind each other. `positions_T` counts from 0 in each row's own text; `segments` say who sees whom."""

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class FeedForward:
    """Two products with an activation between them; `gate_up` holds both inputs of a gate, one behind the other."""

    gate_up: Stack
    down: Stack
    activation: Activation


@dataclass(frozen=True)
class Block:
    """One layer: attention and feed-forward, each with the norms that the family has.

    `qkv` holds the queries only where the layer uses another one's keys and values, and no values where they are the
    keys. A block has `feed_forward`, `mixture`, or both: then the feed-forward is an expert that every token uses.
    """

    layer: Layer
    attention_norm: Norm | None
    qkv: Stack
    head_norms: tuple[Norm | None, Norm | None, Norm | None]
    sinks_H: torch.Tensor | None
    output: Stack
    attention_post_norm: Norm | None
    feed_forward_norm: Norm | None
    feed_forward: FeedForward | None
    mixture: Mixture | None
    feed_forward_post_norm: Norm | None


@dataclass(frozen=True)
class Flow:
    """What blocks share on their way through one pack: the pieces of attention and the turns, made once for each kind.

    `wanted_N` are the places that the last block computes, `count` of them (None: all).
    """

    pieces: dict[Heads, tuple[Piece, ...]]
    turns: dict[Rope, torch.Tensor]
    wanted_N: torch.Tensor | None
    count: int


class Decoder:
    """A GGUF's decoder with LoRA on its linear layers. Made by `model.load`."""

    def __init__(
        self,
        spec: Spec,
        *,
        embedding: Embedding,
        blocks: Sequence[Block],
        norm: Norm,
        head: Head,
        dtype: torch.dtype,
        device: torch.device,
        recompute: bool,
    ) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.head = head
        self.recompute = recompute
        self._embedding, self._blocks, self._norm = embedding, tuple(blocks), norm
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._lenders = {layer.keys_of for layer in spec.layers}

    def hidden(self, pack: Pack, places_N: torch.Tensor) -> torch.Tensor:
        """Hidden states before the last norm at some places of the pack, float32 (N, D).

        The last block needs keys and values of all tokens, but the rest of it at these places only.
        """
        x_TD = self._embedding.rows(pack.tokens_T).to(self.device)
        if self.spec.embedding_scale != 1.0:
            x_TD.mul_(self.spec.embedding_scale)
        wanted_N, order_N = torch.unique(places_N.cpu(), return_inverse=True)
        # a round number of places, for the matrix library's sake; nothing asks for the added ones
        rounded_N = torch.cat([wanted_N, wanted_N.new_zeros(-len(wanted_N) % 32)])
        turns = {
            layer.rope: self._turn(layer.rope, pack.positions_T) for layer in self.spec.layers if layer.rope is not None
        }
        whole = Flow(self._pieces(pack, self.spec.layers, None), turns, None, len(x_TD))
        end = Flow(
            self._pieces(pack, self.spec.layers[-1:], wanted_N), turns, rounded_N.to(self.device), len(rounded_N)
        )
        keys: dict[int, torch.Tensor] = {}
        for index, block in enumerate(self._blocks):
            flow = end if index == len(self._blocks) - 1 else whole
            if self.recompute and torch.is_grad_enabled():
                x_TD = checkpoint(self._block, index, block, x_TD, flow, keys, use_reentrant=False)
            else:
                x_TD = self._block(index, block, x_TD, flow, keys)
        return x_TD[order_N.to(self.device)]

    def last_norm(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The input of the output head, in the compute type (N, D)."""
        return self._norm.forward(x_ND).to(self.dtype)

    def logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Hidden states of the wanted places → float32 logits (N, V)."""
        return self.head.logits(self.last_norm(x_ND))

    def _block(
        self, index: int, block: Block, x_TD: torch.Tensor, flow: Flow, keys: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        scale = self.spec.residual_scale
        mixed_TE = self._attention(index, block, x_TD, flow, keys)
        if flow.wanted_N is not None:
            x_TD = x_TD[flow.wanted_N]
        attended_TD = Linear.apply(mixed_TE, self._anchor, block.output)
        middle_TD = torch.add(x_TD, _behind(attended_TD, block.attention_post_norm), alpha=scale)
        out_TD = self._feed_forward(block, x_TD if self.spec.parallel else middle_TD)
        return torch.add(middle_TD, _behind(out_TD, block.feed_forward_post_norm), alpha=scale)

    def _attention(
        self, index: int, block: Block, x_TD: torch.Tensor, flow: Flow, keys: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """The heads' outputs beside each other (T, H · W), or at the wanted places."""
        layer, heads = block.layer, block.layer.heads
        qkv_TE = self._stacked(x_TD, block.attention_norm, block.qkv)
        if any(norm is not None for norm in block.head_norms):
            qkv_TE = _head_norms(qkv_TE, block)
        if layer.rope is not None:
            turning = heads.queries if layer.keys_of is not None else heads.queries + heads.keys
            qkv_TE = Turned.apply(qkv_TE, flow.turns[layer.rope], turning, heads.width, layer.rope.halves)
        if layer.keys_of is not None:
            qkv_TE = torch.cat([qkv_TE, keys[layer.keys_of]], dim=-1)
        if index in self._lenders:
            keys[index] = qkv_TE[:, heads.queries * heads.width :]
        return Attention.apply(qkv_TE, flow.pieces[heads], heads, block.sinks_H, flow.count)

    def _feed_forward(self, block: Block, x_TD: torch.Tensor) -> torch.Tensor:
        norm, dense, mixture = block.feed_forward_norm, block.feed_forward, block.mixture
        if mixture is None:
            assert dense is not None
            inner_TF = self._stacked(x_TD, norm, dense.gate_up)
            return ActivatedLinear.apply(inner_TF, self._anchor, dense.activation, dense.down)
        normed_TD = x_TD if norm is None else Normed.apply(x_TD, norm, torch.float32)
        weights_TK, chosen_TK = mixture.choose(normed_TD)
        out_TD = Routed.apply(normed_TD.to(self.dtype), weights_TK, chosen_TK, mixture)
        if dense is None:
            return out_TD
        inner_TF = Linear.apply(normed_TD.to(self.dtype), self._anchor, dense.gate_up)
        return out_TD + ActivatedLinear.apply(inner_TF, self._anchor, dense.activation, dense.down)

    def _stacked(self, x_TD: torch.Tensor, norm: Norm | None, stack: Stack) -> torch.Tensor:
        if norm is None:
            return Linear.apply(x_TD.to(self.dtype), self._anchor, stack)
        return NormLinear.apply(x_TD, self._anchor, norm, stack, self.dtype)

    def _pieces(
        self, pack: Pack, layers: Sequence[Layer], wanted_N: torch.Tensor | None
    ) -> dict[Heads, tuple[Piece, ...]]:
        return {
            heads: pieces_of(pack.segments, wanted_N, heads, dtype=self.dtype, device=self.device)
            for heads in {layer.heads for layer in layers}
        }

    def _turn(self, rope: Rope, positions_T: torch.Tensor) -> torch.Tensor:
        """cos + i · sin of each position and pair, complex64 (T, F)."""
        frequencies_F = torch.tensor(rope.frequencies_F, dtype=torch.float64)
        angles_TF = positions_T.cpu().to(torch.float64).unsqueeze(-1) * frequencies_F
        gain_TF = torch.full_like(angles_TF, rope.gain)
        return torch.polar(gain_TF, angles_TF).to(torch.complex64).to(self.device)


def _behind(x_TD: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """The norm that some families have behind a part, before it is added to the stream."""
    return x_TD if norm is None else Normed.apply(x_TD, norm, torch.float32)


def _head_norms(qkv_TE: torch.Tensor, block: Block) -> torch.Tensor:
    """Norms over each head, or over all of them, by the weight's width. Values that are not stacked are the keys."""
    heads = block.layer.heads
    queries_TE, rest_TE = qkv_TE.tensor_split((heads.queries * heads.width,), dim=-1)
    parts = [queries_TE]
    if block.layer.keys_of is None:
        parts += [rest_TE[:, : heads.keys * heads.width], rest_TE[:, -heads.keys * heads.width :]]
    normed = [_over_heads(part_TE, norm, heads) for part_TE, norm in zip(parts, block.head_norms, strict=False)]
    return torch.cat(normed, dim=-1)


def _over_heads(x_TE: torch.Tensor, norm: Norm | None, heads: Heads) -> torch.Tensor:
    if norm is None:
        return x_TE
    width = heads.width if norm.weight_D is None else norm.weight_D.shape[-1]
    return Normed.apply(x_TE.unflatten(-1, (-1, width)), norm, x_TE.dtype).flatten(-2)
