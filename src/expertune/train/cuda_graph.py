"""A training step's forward and backward pass as CUDA graphs, one for each shape of a batch.

A small model's kernels are done before Python has started the next ones. A graph starts all of them at once: it holds
the kernels of one pass, which read their inputs from the same place each time. The first batch of a shape is computed
without a graph, which also sets up the libraries; the second one records it.

Axes: T token · N target place · M decision · K rival token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..model.forward_context import ForwardContext
from ..model.load import Tunable
from .batches import Batch, Decisions
from .loss import weighted_loss

SHAPES = 48  # at most so many are recorded


@dataclass(frozen=True)
class _Inputs:
    """A batch on the device, in two pieces of memory so that two copies bring the next one."""

    integers: torch.Tensor
    floats: torch.Tensor
    sizes: tuple[int, int, int, int]

    @classmethod
    def of(cls, batch: Batch, weight: float) -> _Inputs:
        """On the processor. The weights are divided by that of the whole step."""
        decisions = batch.decisions
        assert decisions is not None  # a training batch has some
        integers = (batch.pack.tokens_T, batch.places_N, batch.targets_N, decisions.rows_M, decisions.tokens_MK)
        floats = (batch.weights_N / weight, decisions.offsets_MK, decisions.shares_MK, decisions.weights_M / weight)
        return cls(
            torch.cat([each.flatten() for each in integers]),
            torch.cat([each.flatten() for each in floats]),
            (len(batch.pack.tokens_T), len(batch.places_N), len(decisions.rows_M), decisions.tokens_MK.shape[1]),
        )

    def to(self, device: torch.device) -> _Inputs:
        return replace(self, integers=self.integers.to(device), floats=self.floats.to(device))

    def copy_(self, other: _Inputs) -> None:
        self.integers.copy_(other.integers)
        self.floats.copy_(other.floats)


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: _Inputs
    loss: torch.Tensor
    context: ForwardContext


class GraphedStep:
    """Forward and backward pass of a batch of rows (`rows.training_rows`): adds to the adapter's gradient.

    All of it runs on one stream of its own: autograd waits for the streams that it has seen, which a graph forbids
    for any but its own.
    """

    def __init__(self, tunable: Tunable) -> None:
        self._decoder, self._device = tunable.decoder, tunable.placement.device
        self.records, self.refusal = tunable.placement.cached and not tunable.decoder.recompute, ""
        self._stream, self._pool = None, None
        if self._device.type == "cuda":
            self._stream, self._pool = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self._seen: set[tuple[int, ...]] = set()

    @property
    def count(self) -> int:
        """Number of shapes that have been recorded."""
        return len(self._recorded)

    def backward(self, batch: Batch, weight: float) -> torch.Tensor:
        """The batch's share of the step's loss, on the device; `weight` is that of all targets of the step."""
        inputs = _Inputs.of(batch, weight)
        if self._stream is None:
            return self._compute(self._decoder.rows_context(batch.pack), inputs)
        shape = (batch.pack.row_length, *inputs.sizes)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            loss = self._on_stream(batch, inputs, shape)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return loss

    def _on_stream(self, batch: Batch, inputs: _Inputs, shape: tuple[int, ...]) -> torch.Tensor:
        again, self._seen = shape in self._seen, self._seen | {shape}
        if again and shape not in self._recorded and self.records and len(self._recorded) < SHAPES:
            self._record(shape, self._decoder.rows_context(batch.pack), inputs.to(self._device))
        if shape not in self._recorded:
            return self._compute(self._decoder.rows_context(batch.pack), inputs.to(self._device))
        recorded = self._recorded[shape]
        recorded.inputs.copy_(inputs)
        recorded.graph.replay()
        return recorded.loss.clone()

    def _record(self, shape: tuple[int, ...], context: ForwardContext, inputs: _Inputs) -> None:
        """Nothing is computed here, so that the gradient stays as it is. A driver that refuses is not asked again."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)  # torch.cuda.graph would also empty the allocator's cache each time
        try:
            graph.capture_begin(pool=self._pool)
            try:
                loss = self._compute(context, inputs)
            finally:
                graph.capture_end()
            self._recorded[shape] = _Recorded(graph, inputs, loss, context)
        except RuntimeError as error:
            self.records, self.refusal = False, str(error)

    def _compute(self, context: ForwardContext, inputs: _Inputs) -> torch.Tensor:
        tokens, places, decisions, rivals = inputs.sizes
        each = decisions * rivals
        tokens_T, places_N, targets_N, rows_M, tokens_E = inputs.integers.split(
            (tokens, places, places, decisions, each)
        )
        weights_N, offsets_E, shares_E, weights_M = inputs.floats.split((places, each, each, decisions))
        shape = (decisions, rivals)
        found = Decisions(rows_M, tokens_E.view(shape), offsets_E.view(shape), shares_E.view(shape), weights_M)
        hidden_ND = self._decoder.hidden_of_rows(context, tokens_T, places_N)
        loss = weighted_loss(self._decoder, hidden_ND, targets_N, weights_N, found)
        loss.backward()
        return loss.detach()
