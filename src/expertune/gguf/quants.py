"""Packed rows ↔ float32, by ggml's own code where the engine's wheel exports it, else by gguf-py.

The values are those of gguf-py bit for bit (tests/parity/test_quants.py: every type, random bytes, x86-64). Where a
compiler fuses multiply and add (64-bit ARM), ggml's K-quants may differ from it in the last bit of a float32.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES as BLOCKS  # type → (elements, bytes) of a block
from gguf import GGMLQuantizationType as Type

from ..errors import FineTuningNotSupportedError, TrainingFailedError

FLOATS = (Type.F32, Type.F16, Type.BF16)
FLOAT_DECODERS = {Type.F16: "ggml_cpu_fp16_to_fp32", Type.BF16: "ggml_bf16_to_fp32_row"}  # the faster of ggml's two
CHUNK = 1 << 18  # elements (1 MB of float32, inside a core's cache): the least that is worth a thread


@functools.cache
def _ggml() -> ctypes.CDLL | None:
    """The engine's shared object, loaded without importing the engine; None where it exports no ggml."""
    package = importlib.util.find_spec("xllamacpp")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("xllamacpp*")):
            if path.suffix in (".so", ".pyd", ".dylib"):
                try:
                    library = ctypes.CDLL(str(path))
                    return _declared(library)
                except (OSError, AttributeError):
                    return None
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    library.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    library.ggml_cpu_init.restype, library.ggml_cpu_init.argtypes = None, []
    return library


@functools.cache
def _row_decoder(kind: Type) -> Callable[[int, int, int], None] | None:
    """ggml's `dequantize_row_<type>(packed, floats, elements)`, ready to be called from several threads."""
    library = _ggml()
    name = kind.name if kind.name.endswith("_K") else kind.name.lower()
    symbol = FLOAT_DECODERS.get(kind, f"dequantize_row_{name.replace('Q', 'q')}")
    decode = getattr(library, symbol, None)
    if library is None or decode is None:
        return None
    library.ggml_cpu_init()  # fills the table of F16, for processors that need one
    decode.restype, decode.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return decode


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="quants")


if hasattr(os, "register_at_fork"):  # a forked child has the pool but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _over_rows(work: Callable[[int, int], None], rows: int, width: int, threads: int) -> None:
    """Call work(first, last) on ranges of rows, in up to `threads` threads (this one among them)."""
    parts = max(1, min(threads, rows, rows * width // CHUNK))
    bounds = [rows * part // parts for part in range(parts + 1)]
    waiting = [_pool().submit(work, bounds[part], bounds[part + 1]) for part in range(1, parts)]
    try:
        work(bounds[0], bounds[1])
    finally:
        for future in waiting:
            future.exception()  # nobody may write into the caller's array after we return
    for future in waiting:
        future.result()


def row_fits(kind: Type, width: int) -> bool:
    """Check whether a row of `width` elements is a whole number of the type's blocks."""
    return width > 0 and width % BLOCKS[kind][0] == 0


def bytes_per_row(kind: Type, width: int) -> int:
    """Bytes of a packed row. Raises TrainingFailedError where it is not a whole number of blocks."""
    if not row_fits(kind, width):
        raise TrainingFailedError(
            f"{kind.name} needs rows that are multiples of {BLOCKS[kind][0]}, not {width}; choose another --export-type"
        )
    block, size = BLOCKS[kind]
    return width // block * size


def can_dequantize(kind: Type) -> bool:
    return kind in FLOATS or kind in gguf.quants._type_traits


def dequantize(blocks_RB: np.ndarray, kind: Type) -> np.ndarray:
    """Packed rows → new float32 rows, on every core. Shape: uint8 (R, bytes of a row) → (R, I)."""
    block, size = BLOCKS[kind]
    out_RI = np.empty((blocks_RB.shape[0], blocks_RB.shape[1] // size * block), np.float32)
    dequantize_into(blocks_RB, kind, out_RI, threads=os.cpu_count() or 1)
    return out_RI


def dequantize_into(blocks_RB: np.ndarray, kind: Type, out_RI: np.ndarray, *, threads: int) -> None:
    """Packed rows → `out_RI`, float32 and contiguous, which the caller may use again and again.

    Raises FineTuningNotSupportedError for types that hold no weights (integers, Q8_1, Q8_K).
    """
    if not can_dequantize(kind):
        raise FineTuningNotSupportedError(f"tensors of type {kind.name} cannot be read; get a file in another type")
    rows, width = out_RI.shape
    if out_RI.dtype != np.float32 or not out_RI.flags.c_contiguous or not out_RI.flags.writeable:
        raise ValueError("out_RI is not a writeable contiguous float32 array")
    if blocks_RB.dtype != np.uint8 or blocks_RB.shape != (rows, bytes_per_row(kind, width)):
        raise ValueError(f"{blocks_RB.dtype} {blocks_RB.shape} does not hold {kind.name} {out_RI.shape}")
    blocks_RB = np.ascontiguousarray(blocks_RB)
    decode = _row_decoder(kind)

    def by_ggml(first: int, last: int) -> None:
        assert decode
        decode(
            blocks_RB.ctypes.data + first * blocks_RB.shape[1],
            out_RI.ctypes.data + 4 * first * width,
            (last - first) * width,
        )

    def by_numpy(first: int, last: int) -> None:
        _decode(blocks_RB[first:last], kind, out_RI[first:last])

    _over_rows(by_ggml if decode else by_numpy, rows, width, threads)


def _decode(blocks_RB: np.ndarray, kind: Type, out_RI: np.ndarray) -> None:
    if kind == Type.BF16:  # the upper half of a float32
        np.left_shift(blocks_RB.view(np.uint16), np.uint32(16), out=out_RI.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out_RI, gguf.quants.dequantize(blocks_RB, kind))


def can_quantize(kind: Type) -> bool:
    """Check whether `quantize` makes this type; not those that need an importance matrix (IQ2_XXS, IQ2_XS, IQ1_S)."""
    if kind in (*FLOATS, Type.Q8_0):
        return True
    library = _ggml()
    makeable = kind in gguf.quants._type_traits
    return library is not None and makeable and not library.ggml_quantize_requires_imatrix(int(kind))


def quantize(weight_RI: np.ndarray, kind: Type, *, threads: int = 1, name: str = "a tensor") -> np.ndarray:
    """Float rows → packed rows, the same for any number of threads. Shape: (R, I) → uint8 (R, bytes of a row).

    Raises TrainingFailedError, with `name`, for NaN or infinity, rows that do not fit, and types that cannot be made.
    """
    if not can_quantize(kind):
        raise TrainingFailedError(f"{name}: {kind.name} cannot be made on this machine; set --export-type Q8_0")
    weight_RI = np.ascontiguousarray(weight_RI, dtype=np.float32)
    rows, width = weight_RI.shape
    packed_RB = np.empty((rows, bytes_per_row(kind, width)), np.uint8)
    library = None if kind in FLOATS else _ggml()

    def work(first: int, last: int) -> None:
        part_RI = weight_RI[first:last]
        if not np.isfinite(part_RI).all():
            raise TrainingFailedError(f"{name}: holds NaN or infinity; train again with a lower --learning-rate")
        if library is None:
            _encode(part_RI, kind, packed_RB[first:last], name)
        else:
            library.ggml_quantize_chunk(
                int(kind), weight_RI.ctypes.data, packed_RB.ctypes.data, first * width, last - first, width, None
            )

    _over_rows(work, rows, width, threads)
    return packed_RB


def _encode(weight_RI: np.ndarray, kind: Type, packed_RB: np.ndarray, name: str) -> None:
    if kind == Type.F16 and np.abs(weight_RI).max(initial=0) >= 65520:  # rounds to infinity from here on
        raise TrainingFailedError(f"{name}: holds numbers beyond F16's 65504; set --export-type F32 or Q8_0")
    packed_RB[:] = gguf.quants.quantize(weight_RI, kind).view(np.uint8)
