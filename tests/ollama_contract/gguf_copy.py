"""What Ollama's import does to a GGUF, at the level of bytes: `llama-quantize … COPY`.

Keys keep their bytes, with `general.quantization_version` and `general.file_type` last; tensors go into llama.cpp's
order.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, LlamaFileType

ALIGNMENT = 32
VERSION_KEY, TYPE_KEY = "general.quantization_version", "general.file_type"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
GUESSED = 1024
MEDIUM = {"F32": "ALL_F32", "Q3_K": "MOSTLY_Q3_K_M", "Q4_K": "MOSTLY_Q4_K_M", "Q5_K": "MOSTLY_Q5_K_M"}


class GgufError(Exception):
    """Ollama's words for a file that it does not take."""


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # GGUF's order: the row's width first
    type: GGMLQuantizationType
    offset: int  # from the beginning of the data

    @property
    def nbytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.type]
        return self.elements // block * size

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def info(self, offset: int) -> bytes:
        return _string(self.name) + struct.pack(
            f"<I{len(self.shape)}QIQ", len(self.shape), *self.shape, int(self.type), offset
        )


@dataclass(frozen=True)
class Gguf:
    raw: dict[str, bytes]  # each key with its value as they stand in the file
    values: dict[str, Any]
    tensors: list[Tensor]
    data: int  # where the tensors' data begins

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)


def parse(content: bytes) -> Gguf:
    """Raises GgufError for what is no GGUF, or is cut short."""
    if content[:4] != b"GGUF":
        raise GgufError("supplied file was not in GGUF format")
    try:
        found = _parse(content)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise GgufError("unexpected EOF") from None
    for tensor in found.tensors:
        end = found.data + tensor.offset + tensor.nbytes
        if end > len(content):
            raise GgufError(f'tensor "{tensor.name}" offset+size ({end}) exceeds file size ({len(content)})')
    return found


def _parse(content: bytes) -> Gguf:
    _, tensor_count, key_count = struct.unpack_from("<IQQ", content, 4)
    at, raw, values, tensors = 24, {}, {}, []
    for _ in range(key_count):
        begin = at
        key, at = _value(content, at, STRING)
        (kind,) = struct.unpack_from("<I", content, at)
        values[key], at = _value(content, at + 4, kind)
        raw[key] = content[begin:at]
    for _ in range(tensor_count):
        name, at = _value(content, at, STRING)
        (dims,) = struct.unpack_from("<I", content, at)
        *shape, kind, offset = struct.unpack_from(f"<{dims}QIQ", content, at + 4)
        tensors.append(Tensor(name, tuple(shape), GGMLQuantizationType(kind), offset))
        at += 4 + 8 * dims + 12
    return Gguf(raw, values, tensors, _padded(at))


def _value(content: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == STRING:
        (size,) = struct.unpack_from("<Q", content, at)
        if at + 8 + size > len(content):
            raise IndexError
        return content[at + 8 : at + 8 + size].decode(), at + 8 + size
    if kind == ARRAY:
        inner, count = struct.unpack_from("<IQ", content, at)
        at, values = at + 12, []
        for _ in range(count):
            value, at = _value(content, at, inner)
            values.append(value)
        return values, at
    (value,) = struct.unpack_from(SCALARS[kind], content, at)
    return value, at + struct.calcsize(SCALARS[kind])


def imported(content: bytes, *, reorder: bool = False) -> bytes:
    """The blob that Ollama makes of `content`. Raises GgufError.

    `reorder` lays the tensors out backwards, as some other version might: equal tensors, another digest.
    """
    found = parse(content)
    last = {
        VERSION_KEY: found.raw.get(VERSION_KEY) or _uint32(VERSION_KEY, GGML_QUANT_VERSION),
        TYPE_KEY: found.raw.get(TYPE_KEY) or _uint32(TYPE_KEY, GUESSED + _guess(found.tensors)),
    }
    keys = [raw for key, raw in found.raw.items() if key not in last] + list(last.values())
    tensors = sorted(found.tensors, key=_place, reverse=reorder)
    infos, offset = [], 0
    for tensor in tensors:
        infos.append(tensor.info(offset))
        offset = _padded(offset + tensor.nbytes)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *infos])
    parts = [head, bytes(_padded(len(head)) - len(head))]
    for tensor in tensors:
        begin = found.data + tensor.offset
        parts.append(content[begin : begin + tensor.nbytes])
        parts.append(bytes(_padded(tensor.nbytes) - tensor.nbytes))
    return b"".join(parts)


def _place(tensor: Tensor) -> tuple[int, str]:
    """llama.cpp's order: outside the blocks, then block by block; by name."""
    parts = tensor.name.split(".")
    return (int(parts[1]) if parts[0] == "blk" and parts[1].isdigit() else -1), tensor.name


def _guess(tensors: list[Tensor]) -> int:
    (kind, _), *_ = Counter(tensor.type for tensor in tensors).most_common()
    return int(LlamaFileType[MEDIUM.get(kind.name, f"MOSTLY_{kind.name}")])


def file_type_name(number: int | None) -> str:
    """As `ollama list` writes it; a guessed or a missing type is "unknown"."""
    try:
        return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "unknown"


def _uint32(key: str, value: int) -> bytes:
    return _string(key) + struct.pack("<II", 4, value)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
