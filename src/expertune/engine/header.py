"""The plain values of a GGUF's header, without its arrays: enough to say what a file is before an engine loads it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from ..errors import ModelFileError

# GGUF value types (ggml-org/ggml, docs/gguf.md): number → struct format
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def read_header(path: Path) -> dict[str, Any]:
    """Metadata of a GGUF: numbers, booleans and texts. Raises ModelFileError for a file that is none, or cut short."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise ModelFileError(f"{path}: not a GGUF file; give a GGUF or the name of an Ollama model")
            return _values(data)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged or cut short; fetch the file again") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def _values(data: mmap.mmap) -> dict[str, Any]:
    values: dict[str, Any] = {}
    (count,), at = struct.unpack_from("<Q", data, 16), 24
    for _ in range(count):
        key, at = _string(data, at)
        (kind,), at = struct.unpack_from("<I", data, at), at + 4
        if kind == ARRAY:
            at = _skip_array(data, at)
        elif kind == STRING:
            values[key], at = _string(data, at)
        else:
            (values[key],) = struct.unpack_from("<" + SCALARS[kind], data, at)
            at += struct.calcsize(SCALARS[kind])
    return values


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    end = at + 8 + struct.unpack_from("<Q", data, at)[0]
    if end > len(data):
        raise ValueError("a text beyond the end")
    return data[at + 8 : end].decode("utf-8", errors="replace"), end


def _skip_array(data: mmap.mmap, at: int) -> int:
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind != STRING:
        return at + count * struct.calcsize(SCALARS[kind])
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    return at
