"""The plain values of a GGUF's header, without its arrays: enough to say what a file is before an engine loads it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ModelFileError

# GGUF value types (ggml-org/ggml, docs/gguf.md): number → struct format
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONG_FACTORS = "rope_factors_long.weight"
STEP = 256  # tokens: llama.cpp rounds the context of a slot up to whole steps (src/llama-context.cpp)
Read = TypeVar("Read")


def read_header(path: Path) -> dict[str, Any]:
    """Metadata of a GGUF: numbers, booleans and texts. Raises ModelFileError for a file that is none, or cut short."""
    return _read(path, lambda data: _values(data)[0])


def tensor_names(path: Path) -> frozenset[str]:
    """The names of a GGUF's tensors. Raises ModelFileError as `read_header`."""
    return _read(path, _tensor_names)


def largest_context(path: Path, header: dict[str, Any]) -> int:
    """Tokens that a request to the model may hold: what it was trained for (llama.cpp refuses a file without it: 1).

    A model with long RoPE factors (phi3) is another model above its original context: llama.cpp then takes these for
    every token, also of a short prompt (get_rope_factors in src/llama-model.cpp), where it was tuned with the short.
    One whose queries grow behind some context (mistral3) is tuned without that growth.
    """
    length, original, scale, steady = (
        header.get(f"{header.get('general.architecture')}.{key}")
        for key in (
            "context_length",
            "rope.scaling.original_context_length",
            "attention.temperature_scale",
            "attention.temperature_length",
        )
    )
    trained = length if isinstance(length, int) else 1
    if scale:
        original = steady or original
    elif LONG_FACTORS not in tensor_names(path):
        return trained
    if isinstance(original, int) and 0 < original < trained:
        return original // STEP * STEP or original
    return trained


def _read(path: Path, read: Callable[[mmap.mmap], Read]) -> Read:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise ModelFileError(f"{path}: not a GGUF file; give a GGUF or the name of an Ollama model")
            return read(data)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged or cut short; fetch the file again") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def _values(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The metadata, and where they end."""
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
    return values, at


def _tensor_names(data: mmap.mmap) -> frozenset[str]:
    names, at = set(), _values(data)[1]
    for _ in range(struct.unpack_from("<Q", data, 8)[0]):
        name, at = _string(data, at)
        names.add(name)
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12  # dimensions, then the type and the offset
    return frozenset(names)


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
