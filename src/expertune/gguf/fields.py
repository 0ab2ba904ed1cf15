"""The metadata of a GGUF: the span of each value in the file, decoded only when asked for.

Format: docs/gguf.md of ggml-org/ggml, GGUF version 3, as gguf-py 0.19.0 reads and writes it. Strings are a uint64
length and UTF-8 bytes; an array is a type, a uint64 length and its values; everything is little-endian.
"""

from __future__ import annotations

import functools
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ..errors import ModelFileError

LAYOUTS = {
    GGUFValueType.UINT8: struct.Struct("<B"), GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"), GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"), GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.UINT64: struct.Struct("<Q"), GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT32: struct.Struct("<f"), GGUFValueType.FLOAT64: struct.Struct("<d"),
    GGUFValueType.BOOL: struct.Struct("<?"),
}  # fmt: skip
UINT32, UINT64 = LAYOUTS[GGUFValueType.UINT32], LAYOUTS[GGUFValueType.UINT64]
MAX_KEY = 65535  # bytes, by the specification


@dataclass(frozen=True)
class Field:
    """One key. `start:stop` is the value's span in the file, without key and type."""

    key: str
    type: GGUFValueType
    start: int
    stop: int
    _map: mmap.mmap = field(repr=False, compare=False)

    @property
    def raw(self) -> bytes:
        """The value's bytes as the file holds them."""
        return self._map[self.start : self.stop]

    @functools.cached_property
    def value(self) -> Any:
        """A str, bool, int or float, or a list of them; bytes that are not UTF-8 become U+FFFD."""
        raw = self.raw
        if self.type == GGUFValueType.STRING:
            return _text(raw, UINT64.size, len(raw))
        if self.type != GGUFValueType.ARRAY:
            return LAYOUTS[self.type].unpack(raw)[0]
        kind, count = GGUFValueType(UINT32.unpack_from(raw)[0]), UINT64.unpack_from(raw, UINT32.size)[0]
        position = UINT32.size + UINT64.size
        if kind != GGUFValueType.STRING:
            return list(struct.unpack_from(f"<{count}{LAYOUTS[kind].format[1:]}", raw, position))
        texts = []
        for _ in range(count):
            start = position + UINT64.size
            position = start + UINT64.unpack_from(raw, position)[0]
            texts.append(_text(raw, start, position))
        return texts


def _text(raw: bytes, start: int, stop: int) -> str:
    return raw[start:stop].decode("utf-8", errors="replace")


class Cursor:
    """Reads a mapped file from front to back; every length is checked against the file's size first."""

    def __init__(self, path: Path, file_map: mmap.mmap) -> None:
        self.path, self.map, self.size, self.position = path, file_map, len(file_map), 0

    def damaged(self, fault: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: damaged: {fault}; download or copy the file again")

    def truncated(self, what: str, stop: int) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: truncated: {what} ends at byte {stop} of {self.size}; download or copy the file again"
        )

    def skip(self, count: int, what: str) -> int:
        """Move past `count` bytes; returns where they begin."""
        start = self.position
        if count > self.size - start:
            raise self.truncated(what, start + count)
        self.position = start + count
        return start

    def number(self, layout: struct.Struct, what: str) -> int:
        return layout.unpack_from(self.map, self.skip(layout.size, what))[0]

    def name(self, what: str, longest: int) -> str:
        """A key or a tensor's name: not empty, at most `longest` bytes, UTF-8 without control characters."""
        length = self.number(UINT64, what)
        if not 0 < length <= longest:
            raise self.damaged(f"{what} is {length} bytes long (1 to {longest} are possible)")
        start = self.skip(length, what)
        name = self.map[start : self.position].decode("utf-8", errors="replace")
        if not name.isprintable() or "\N{REPLACEMENT CHARACTER}" in name:
            raise self.damaged(f"{what} is not text")
        return name

    def value_type(self, what: str) -> GGUFValueType:
        number = self.number(UINT32, what)
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.damaged(f"{what} has the unknown type {number}") from None

    def field(self) -> Field:
        key = self.name("a metadata key", MAX_KEY)
        what = f"metadata {key!r}"
        kind = self.value_type(what)
        start = self.position
        if kind == GGUFValueType.ARRAY:
            self._skip_array(what)
        elif kind == GGUFValueType.STRING:
            self.skip(self.number(UINT64, what), what)
        else:
            self.skip(LAYOUTS[kind].size, what)
        return Field(key, kind, start, self.position, self.map)

    def _skip_array(self, what: str) -> None:
        kind, count = self.value_type(what), self.number(UINT64, what)
        if kind == GGUFValueType.ARRAY:
            raise self.damaged(f"{what} is an array of arrays, which llama.cpp cannot read either")
        if kind == GGUFValueType.STRING:
            self._skip_strings(count, what)
        else:
            self.skip(count * LAYOUTS[kind].size, what)

    def _skip_strings(self, count: int, what: str) -> None:
        """Skip an array of strings: one for each token of a vocabulary, so the loop has no checks but struct's own."""
        if count * UINT64.size > self.size - self.position:
            raise self.truncated(what, self.position + count * UINT64.size)
        position, file_map, unpack = self.position, self.map, UINT64.unpack_from
        try:
            for _ in range(count):
                position += 8 + unpack(file_map, position)[0]
        except (struct.error, OverflowError):  # the length or the one before it points past the end of the file
            raise self.truncated(what, position) from None
        self.skip(position - self.position, what)
