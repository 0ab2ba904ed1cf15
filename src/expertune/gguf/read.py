"""Open a GGUF without reading it: metadata and tensor table are checked, the weights stay on disk until asked for.

Nothing in the file is trusted: each count, length and offset is checked against the file's size before memory is
allocated for it, and each fault is one line that names the file and says what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError
from .fields import UINT32, UINT64, Cursor, Field
from .foreign import HEAD, foreign_format
from .quants import BLOCKS, dequantize

MAGIC = b"GGUF"
VERSIONS = (2, 3)
RERANKS = 4  # llama.cpp's pooling type of rerankers; embedding models have 1 to 3
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME = 63  # GGML_MAX_NAME is 64 with the closing zero
# In files of 2023 and 2024: ggml/include/ggml.h of llama.cpp, which now repacks Q4_0 and IQ4_NL when it loads them.
REMOVED_TYPES = {
    4: ("Q4_2", "Q4_K_M"), 5: ("Q4_3", "Q4_K_M"),
    31: ("Q4_0_4_4", "Q4_0"), 32: ("Q4_0_4_8", "Q4_0"), 33: ("Q4_0_8_8", "Q4_0"),
    36: ("IQ4_NL_4_4", "IQ4_NL"), 37: ("IQ4_NL_4_8", "IQ4_NL"), 38: ("IQ4_NL_8_8", "IQ4_NL"),
}  # fmt: skip
SMALLEST_FIELD, SMALLEST_TENSOR = 14, 33  # bytes that one entry takes at least


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the table. `shape` is numpy's order: (out, in); `offset` counts from the file's first byte."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        return self.shape[-1]


class GGUFFile:
    """A GGUF mapped for reading. Raises ModelFileError where `path` is missing, no GGUF, truncated or damaged.

    Arrays of `blocks` are views into the map: they stay valid after `close`, which then only drops our own reference.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._map = _map(self.path)
        cursor = Cursor(self.path, self._map)
        try:
            self.version, tensor_count, field_count = _header(cursor)
            self.fields: dict[str, Field] = _fields(cursor, field_count)
            self.alignment = _alignment(cursor, self.fields)
            self.tensors: dict[str, TensorInfo] = _tensors(cursor, tensor_count, self.alignment)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # a caller still holds a view; the map goes with the last one
            self._map.close()

    def release(self) -> None:
        """Give the file's pages that were read back to the system; they are read again when needed."""
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def metadata(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key (see Field.value), or `default`."""
        field = self.fields.get(key)
        return default if field is None else field.value

    def info(self, name: str) -> TensorInfo:
        """One entry of `tensors`. Raises ModelFileError for a name that is absent."""
        if name not in self.tensors:
            raise ModelFileError(f"{self.path}: the tensor {name} is missing; re-export the model")
        return self.tensors[name]

    def blocks(self, name: str) -> np.ndarray:
        """The packed rows of a tensor as the file holds them. Shape: (rows, bytes of a row), uint8, read-only."""
        info = self.info(name)
        return np.frombuffer(self._map, np.uint8, info.nbytes, info.offset).reshape(info.rows, -1)

    def tensor(self, name: str) -> np.ndarray:
        """A tensor in float32, in its `shape`. Raises FineTuningNotSupportedError for types that hold no weights."""
        info = self.info(name)
        return dequantize(self.blocks(name), info.type).reshape(info.shape)


def read_metadata(path: Path | str) -> dict[str, str | int | float | bool]:
    """The numbers, booleans and strings of a GGUF's metadata, without arrays and without the tensor table.

    Enough to say what a file is, also one with tensor types that GGUFFile refuses. Raises ModelFileError as GGUFFile.
    """
    path = Path(path)
    with contextlib.closing(_map(path)) as file_map:
        cursor = Cursor(path, file_map)
        _, _, count = _header(cursor)
        fields = _fields(cursor, count).values()
        return {field.key: field.value for field in fields if field.type != GGUFValueType.ARRAY}


def header_digest(path: Path, *, without: Collection[str] = ()) -> str:
    """Digest of the metadata, but for the keys `without`, and of the tensors' names, shapes and types."""
    digest = hashlib.sha256()
    with GGUFFile(path) as file:
        for field in file.fields.values():
            if field.key not in without:
                digest.update(f"{field.key}\0{field.type}\0".encode() + field.raw)
        for info in file.tensors.values():
            digest.update(f"{info.name}\0{info.shape}\0{info.type}".encode())
    return digest.hexdigest()


def why_not_generative(metadata: Mapping[str, Any]) -> str:
    """The kind of a model that writes no text (an encoder, an embedding model, a reranker); "" for any other."""
    family = str(metadata.get("general.architecture", ""))
    if metadata.get(f"{family}.attention.causal") is False or "bert" in family or family == "t5encoder":
        return "an encoder"
    pooling = metadata.get(f"{family}.pooling_type", 0)
    if pooling or "embedding" in family:
        return "a reranker" if pooling == RERANKS else "an embedding model"
    return ""


def _map(path: Path) -> mmap.mmap:
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: is a folder; give the GGUF file inside it")
        if not path.exists():
            raise ModelFileError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise ModelFileError(f"{path}: is not a regular file; give a GGUF file")
        with open(path, "rb") as file:
            if path.stat().st_size == 0:
                raise ModelFileError(f"{path}: is empty; download or copy the file again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{path}: cannot be read ({reason}); check the path and its permissions") from error


def _header(cursor: Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata keys; leaves the cursor after them."""
    if cursor.map[: len(MAGIC)] != MAGIC:
        found = foreign_format(cursor.map[:HEAD])
        raise ModelFileError(f"{cursor.path}: is not a GGUF but {found}; give the GGUF file of the model")
    cursor.skip(len(MAGIC), "the header")
    version = cursor.number(UINT32, "the header")
    if version and not version & 0xFFFF:
        raise ModelFileError(f"{cursor.path}: is a big-endian GGUF; get the usual little-endian file of the model")
    if version not in VERSIONS:
        raise ModelFileError(
            f"{cursor.path}: is GGUF version {version}, which cannot be read (2 and 3 can); "
            f"get a current file of the model, or update Expertune"
        )
    tensors, fields = cursor.number(UINT64, "the header"), cursor.number(UINT64, "the header")
    if tensors * SMALLEST_TENSOR + fields * SMALLEST_FIELD > cursor.size:
        raise cursor.damaged(f"{tensors} tensors and {fields} metadata keys cannot fit in {cursor.size} bytes")
    return version, tensors, fields


def _fields(cursor: Cursor, count: int) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for _ in range(count):
        field = cursor.field()
        if field.key in fields:
            raise cursor.damaged(f"metadata {field.key!r} is duplicated")
        fields[field.key] = field
    return fields


def _alignment(cursor: Cursor, fields: dict[str, Field]) -> int:
    field = fields.get("general.alignment")
    if field is None:
        return GGUF_DEFAULT_ALIGNMENT
    if field.type != GGUFValueType.UINT32 or field.value <= 0 or field.value & (field.value - 1):
        raise cursor.damaged("general.alignment is not a power of two")
    return field.value


def _tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    """The table; the data begins at the next multiple of the alignment after it."""
    table: dict[str, TensorInfo] = {}
    for _ in range(count):
        info = _tensor(cursor)
        if info.name in table:
            raise cursor.damaged(f"tensor {info.name} is duplicated")
        if info.offset % alignment:
            raise cursor.damaged(f"tensor {info.name} does not begin at a multiple of {alignment} bytes")
        table[info.name] = info
    data = -(-cursor.position // alignment) * alignment
    table = {name: replace(info, offset=data + info.offset) for name, info in table.items()}
    _check_spans(cursor, table)
    return table


def _tensor(cursor: Cursor) -> TensorInfo:
    """One entry; its offset still counts from the beginning of the data."""
    name = cursor.name("a tensor's name", MAX_NAME)
    what = f"tensor {name}"
    dims = cursor.number(UINT32, what)
    if not 1 <= dims <= MAX_DIMS:
        raise cursor.damaged(f"{what} has {dims} dimensions (1 to {MAX_DIMS} are possible)")
    shape = tuple(cursor.number(UINT64, what) for _ in range(dims))[::-1]
    number = cursor.number(UINT32, what)
    offset = cursor.number(UINT64, what)
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        remedy = "update the gguf package, or get another file"
        if number in REMOVED_TYPES:
            name, instead = REMOVED_TYPES[number]
            remedy = f"{name}, which llama.cpp removed; get the model in {instead}"
        raise ModelFileError(f"{cursor.path}: {what} has the unknown type {number}: {remedy}") from None
    block, size = BLOCKS[kind]
    if not all(shape) or shape[-1] % block:
        raise cursor.damaged(f"{what} cannot have the shape {shape} in {kind.name}")
    return TensorInfo(name, shape, kind, offset, math.prod(shape) // block * size)


def _check_spans(cursor: Cursor, table: dict[str, TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted(table.values(), key=lambda info: info.offset):
        if info.offset < end:
            raise cursor.damaged(f"tensors {before} and {info.name} overlap")
        end, before = info.offset + info.nbytes, info.name
        if end > cursor.size:
            raise cursor.truncated(f"tensor {info.name}", end)
