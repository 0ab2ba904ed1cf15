"""The base's frozen weights: packed as in the file and unpacked on each use, or kept as float copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..gguf import quants
from ..gguf.read import GGUFFile

ROWS_AT_ONCE = 1 << 18  # elements unpacked between two conversions: the float32 piece stays in the processor's cache


class FrozenWeight:
    """One matrix (O, I) made of one or more tensors of the file, stacked by rows (q, k, v; gate, up).

    `matrix()` gives it in the compute type. Packed weights share one buffer (`Scratch`): a matrix is valid
    until the next one is asked for.
    """

    def __init__(
        self,
        file: GGUFFile,
        names: Sequence[str],
        *,
        dtype: torch.dtype,
        device: torch.device,
        threads: int,
        scratch: Scratch | None,
    ) -> None:
        self._file, self._names, self._threads = file, tuple(names), threads
        self._dtype, self._device, self._scratch = dtype, device, scratch
        self.shape = (sum(file.tensors[name].shape[0] for name in names), file.tensors[names[0]].shape[1])
        self._cached: torch.Tensor | None = None
        if scratch is None:
            self._cached = self._unpack(torch.empty(self.shape, dtype=dtype)).to(device)

    def matrix(self) -> torch.Tensor:
        """The weight, (O, I), in the compute type on the compute device."""
        if self._cached is not None:
            return self._cached
        assert self._scratch is not None
        return self._unpack(self._scratch.take(self.shape, self._dtype)).to(self._device)

    def _unpack(self, out_OI: torch.Tensor) -> torch.Tensor:
        row = 0
        for name in self._names:
            rows = self._file.tensors[name].shape[0]
            unpack(self._file, name, out_OI[row : row + rows], threads=self._threads)
            row += rows
        return out_OI


class Scratch:
    """One buffer that every packed weight unpacks into; as large as the largest of them."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)

    def take(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        size = shape[0] * shape[1]
        if self._buffer.numel() < size or self._buffer.dtype != dtype:
            self._buffer = torch.empty(size, dtype=dtype)
        return self._buffer[:size].view(shape)


def unpack(file: GGUFFile, name: str, out_OI: torch.Tensor, *, threads: int) -> None:
    """Dequantise a tensor of the file into `out_OI` (float32 or bfloat16, contiguous), piece by piece."""
    info = file.tensors[name]
    blocks_OB = file.blocks(name)
    if out_OI.dtype == torch.float32:
        quants.dequantize_into(blocks_OB, info.type, out_OI.numpy(), threads=threads)
        return
    inputs = out_OI.shape[1]
    rows = max(1, ROWS_AT_ONCE * threads // inputs)
    piece_OI = np.empty((min(rows, info.shape[0]), inputs), dtype=np.float32)
    for start in range(0, info.shape[0], rows):
        stop = min(start + rows, info.shape[0])
        quants.dequantize_into(blocks_OB[start:stop], info.type, piece_OI[: stop - start], threads=threads)
        out_OI[start:stop].copy_(torch.from_numpy(piece_OI[: stop - start]))


class Embedding:
    """Token embeddings, read row by row from the file: a batch touches few of them."""

    def __init__(self, file: GGUFFile, name: str = "token_embd.weight") -> None:
        self._blocks_VB, self._type = file.blocks(name), file.tensors[name].type

    def rows(self, tokens_T: torch.Tensor) -> torch.Tensor:
        """(T,) token ids → float32 (T, D)."""
        unique, inverse = np.unique(tokens_T.cpu().numpy(), return_inverse=True)
        return torch.from_numpy(quants.dequantize(self._blocks_VB[unique], self._type)[inverse])
