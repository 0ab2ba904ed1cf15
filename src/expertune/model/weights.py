"""Frozen weights of the base: quantised as in the file and dequantised on each use, or kept as float copies.

Axes: O output · I input · B byte of a packed row · E expert · T token · V vocabulary · D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGMLQuantizationType

from ..gguf import quants
from ..gguf.read import GGUFFile

ROWS_AT_ONCE = 1 << 18  # elements dequantised before each conversion: the float32 piece stays in the processor's cache


class FrozenWeight:
    """One matrix (O, I) of one or more tensors of the file, concatenated by rows (q, k, v; gate, up).

    Of tensors (E, O, I) it takes one `expert`. `matrix()` returns it in the compute dtype. Quantised weights share one
    buffer (`Scratch`): a matrix is valid until the next call of any `matrix()`.
    """

    def __init__(self, file: GGUFFile, names: Sequence[str], storage: Storage, expert: int | None = None) -> None:
        self._parts, self._storage, self.device = [], storage, storage.device
        for name in names:
            info, blocks_OB = file.tensors[name], file.blocks(name)
            if expert is not None:
                outputs = info.shape[1]
                blocks_OB = blocks_OB[expert * outputs : (expert + 1) * outputs]
            self._parts.append((blocks_OB, info.type))
        self.shape = (sum(len(blocks_OB) for blocks_OB, _ in self._parts), file.tensors[names[0]].width)
        self._cached: torch.Tensor | None = None
        if storage.scratch is None:
            self._cached = self._unpack(torch.empty(self.shape, dtype=storage.dtype)).to(storage.device)

    def matrix(self) -> torch.Tensor:
        """The weights (O, I) in the compute dtype on the compute device."""
        if self._cached is not None:
            return self._cached
        assert self._storage.scratch is not None
        buffer_OI = self._storage.scratch.take(self.shape, self._storage.dtype)
        return self._unpack(buffer_OI).to(self._storage.device)

    def _unpack(self, out_OI: torch.Tensor) -> torch.Tensor:
        row = 0
        for blocks_OB, kind in self._parts:
            unpack(blocks_OB, kind, out_OI[row : row + len(blocks_OB)], threads=self._storage.threads)
            row += len(blocks_OB)
        return out_OI


class ExpertWeights:
    """One linear layer for each of E experts, from tensors (E, O, I) concatenated by rows; with their biases."""

    def __init__(self, file: GGUFFile, names: Sequence[str], storage: Storage, bias_EO: torch.Tensor | None) -> None:
        experts = range(file.tensors[names[0]].shape[0])
        self._weights = [FrozenWeight(file, names, storage, expert) for expert in experts]
        self._bias_EO = bias_EO

    def product(self, expert: int, x_TI: torch.Tensor) -> torch.Tensor:
        """Linear layer of one expert on x, (T, O)."""
        weight_IO = self._weights[expert].matrix().t()
        return x_TI @ weight_IO if self._bias_EO is None else torch.addmm(self._bias_EO[expert], x_TI, weight_IO)

    def back(self, expert: int, dy_TO: torch.Tensor) -> torch.Tensor:
        """Gradient of the input of `product`, (T, I)."""
        return dy_TO @ self._weights[expert].matrix()


class Scratch:
    """One buffer into which all quantised weights are dequantised; as large as the largest of them."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)

    def take(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        size = shape[0] * shape[1]
        if self._buffer.numel() < size or self._buffer.dtype != dtype:
            self._buffer = torch.empty(size, dtype=dtype)
        return self._buffer[:size].view(shape)


@dataclass(frozen=True)
class Storage:
    """Settings of the weights: compute dtype, device, threads for dequantising, shared buffer (None: float copies)."""

    dtype: torch.dtype
    device: torch.device
    threads: int
    scratch: Scratch | None


def unpack(blocks_OB: np.ndarray, kind: GGMLQuantizationType, out_OI: torch.Tensor, *, threads: int) -> None:
    """Dequantise packed rows into `out_OI` (float32 or bfloat16, contiguous), piece by piece."""
    if out_OI.dtype == torch.float32:
        quants.dequantize_into(blocks_OB, kind, out_OI.numpy(), threads=threads)
        return
    outputs, inputs = out_OI.shape
    rows = max(1, ROWS_AT_ONCE * threads // inputs)
    piece_OI = np.empty((min(rows, outputs), inputs), dtype=np.float32)
    for start in range(0, outputs, rows):
        stop = min(start + rows, outputs)
        quants.dequantize_into(blocks_OB[start:stop], kind, piece_OI[: stop - start], threads=threads)
        out_OI[start:stop].copy_(torch.from_numpy(piece_OI[: stop - start]))


class Embedding:
    """Token embeddings, read row by row from the file: a batch needs few of them.

    On CUDA a copy `table_VD` in the compute dtype spares the way over the processor.
    """

    def __init__(self, file: GGUFFile, name: str = "token_embd.weight", table_VD: torch.Tensor | None = None) -> None:
        self._blocks_VB, self._type, self._table_VD = file.blocks(name), file.tensors[name].type, table_VD

    def rows(self, tokens_T: torch.Tensor) -> torch.Tensor:
        """(T,) token ids → float32 (T, D)."""
        if self._table_VD is not None:
            return self._table_VD[tokens_T.to(self._table_VD.device)].float()
        unique, inverse = np.unique(tokens_T.cpu().numpy(), return_inverse=True)
        return torch.from_numpy(quants.dequantize(self._blocks_VB[unique], self._type)[inverse])
