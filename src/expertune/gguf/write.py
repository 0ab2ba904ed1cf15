"""Write a model or an adapter as GGUF: whole or not at all, one tensor in memory at a time.

A model is written in the order in which llama-quantize, and so Ollama's import, writes it: tensors outside the blocks
first, then block by block, by name; `general.quantization_version` and `general.file_type` as the last two keys
(llama.cpp as of xllamacpp 2026.10: src/llama-model-loader.h `weight_name_comparer`, src/llama-quant.cpp). An import
then leaves our file's bytes as they are, and the digest that Ollama shows is the digest of the file that was evaluated.
(Checked against the blob that Ollama 0.33.0-rc2 made of a Q4_K model: but for its guessed file type, ours has the same
sha256.)
"""

from __future__ import annotations

import math
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, LlamaFileType

from ..errors import OutputError, TrainingFailedError
from ..files import atomic
from .fields import LAYOUTS, UINT32, UINT64
from .quants import bytes_per_row
from .read import MAGIC, MAX_NAME, GGUFFile, TensorInfo

VERSION = 3
COPY_CHUNK = 1 << 24  # bytes
QUANTIZATION_VERSION, FILE_TYPE = "general.quantization_version", "general.file_type"
# llama.cpp names a file by its most frequent type; the medium mix stands for a K-quant (src/llama-model-loader.cpp,
# llama.cpp as of xllamacpp 2026.10)
FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.Q3_K: LlamaFileType.MOSTLY_Q3_K_M,
    GGMLQuantizationType.Q4_K: LlamaFileType.MOSTLY_Q4_K_M,
    GGMLQuantizationType.Q5_K: LlamaFileType.MOSTLY_Q5_K_M,
    GGMLQuantizationType.MXFP4: LlamaFileType.MOSTLY_MXFP4_MOE,
}

Value = str | bool | int | float
Progress = Callable[[int, int], None]  # (bytes of tensors written, bytes of all tensors)


@dataclass(frozen=True)
class Replacement:
    """A tensor's new content in its old shape. `make` is called once, when its turn to be written comes.

    It returns the packed rows: uint8 (rows, bytes of a row of `type`).
    """

    type: GGMLQuantizationType
    make: Callable[[], np.ndarray]


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    nbytes: int
    parts: Callable[[], Iterator[np.ndarray]]  # uint8 arrays, in order


def write_model(
    path: Path | str,
    base: GGUFFile,
    *,
    replaced: Mapping[str, Replacement],
    metadata: Mapping[str, Value],
    dropped: Collection[str] = (),
    progress: Progress | None = None,
) -> None:
    """Write `base` with some tensors replaced, metadata keys set (new or changed) and some `dropped`.

    Untouched tensors and keys keep their bytes. A float becomes a float32, an int a uint32 where it fits.
    Raises OutputError (no room, no permission) and TrainingFailedError (a replacement that does not fit its tensor).
    """
    path = Path(path)
    if path.exists() and path.samefile(base.path):
        raise OutputError(f"{path}: is the base model itself; choose another --output-dir")
    unknown = sorted(replaced.keys() - base.tensors.keys())
    if unknown:
        raise TrainingFailedError(f"{base.path}: has no tensor {unknown[0]} to replace; start again with this base")
    tensors = [_of_base(base, info, replaced.get(info.name)) for info in base.tensors.values()]
    _write(path, _model_keys(base, tensors, metadata, dropped), tensors, base.alignment, progress)


def write_adapter(
    path: Path | str,
    *,
    architecture: str,
    alpha: float,
    tensors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metadata: Mapping[str, Value],
) -> None:
    """Write a LoRA in llama.cpp's adapter format; its scale is alpha / rank (src/llama-adapter.cpp, llama.cpp as of
    xllamacpp 2026.10).

    `tensors` maps a base tensor's name to A (rank, in) and B (out, rank); float16 pairs stay so, all else is float32.
    Raises OutputError, and TrainingFailedError for NaN, infinity or shapes that do not match.
    """
    entries = []
    for name, (a_RI, b_OR) in tensors.items():
        if a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != b_OR.shape[1]:
            raise TrainingFailedError(f"{name}: A {a_RI.shape} and B {b_OR.shape} do not make an adapter; train again")
        entries += [_of_array(f"{name}.lora_a", a_RI), _of_array(f"{name}.lora_b", b_OR)]
    keys = {
        "general.type": "adapter",
        "general.architecture": architecture,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
        **metadata,
    }
    _write(Path(path), [_key(*item) for item in keys.items()], entries, GGUF_DEFAULT_ALIGNMENT, None)


def _of_base(base: GGUFFile, info: TensorInfo, new: Replacement | None) -> _Tensor:
    if new is None:
        packed_B = base.blocks(info.name).reshape(-1)
        starts = range(0, info.nbytes, COPY_CHUNK)
        return _Tensor(
            info.name,
            info.shape,
            info.type,
            info.nbytes,
            lambda: (packed_B[start : start + COPY_CHUNK] for start in starts),
        )
    shape = (info.rows, bytes_per_row(new.type, info.width))

    def parts() -> Iterator[np.ndarray]:
        packed_RB = new.make()
        if packed_RB.dtype != np.uint8 or packed_RB.shape != shape:
            raise TrainingFailedError(
                f"{info.name}: {packed_RB.dtype} {packed_RB.shape} is not {new.type.name} of shape {info.shape}"
            )
        yield packed_RB

    return _Tensor(info.name, info.shape, new.type, math.prod(shape), parts)


def _of_array(name: str, values: np.ndarray) -> _Tensor:
    if len(name.encode()) > MAX_NAME:
        raise TrainingFailedError(
            f"{name}: is longer than the {MAX_NAME} bytes that llama.cpp reads; choose --target-modules"
        )
    kind = GGMLQuantizationType.F16 if values.dtype == np.float16 else GGMLQuantizationType.F32
    values = np.ascontiguousarray(values, np.float16 if kind == GGMLQuantizationType.F16 else np.float32)
    if not np.isfinite(values).all():
        raise TrainingFailedError(f"{name}: holds NaN or infinity; train again with a lower --learning-rate")
    return _Tensor(name, values.shape, kind, values.nbytes, lambda: iter([values.view(np.uint8)]))


# --- metadata ---


def _model_keys(
    base: GGUFFile, tensors: list[_Tensor], metadata: Mapping[str, Value], dropped: Collection[str]
) -> list[bytes]:
    """Base's keys in their order with changed values in place, then new ones, then the two that come last."""
    kept = {key: field for key, field in base.fields.items() if key not in dropped or key in metadata}
    keys = {key: _text(key) + UINT32.pack(field.type) + field.raw for key, field in kept.items()}
    keys |= {key: _key(key, value) for key, value in metadata.items()}
    keys.pop(QUANTIZATION_VERSION, None)
    keys.pop(FILE_TYPE, None)
    last = (_key(QUANTIZATION_VERSION, GGML_QUANT_VERSION), _key(FILE_TYPE, int(_file_type(base, tensors))))
    return [*keys.values(), *last]


def _file_type(base: GGUFFile, tensors: list[_Tensor]) -> LlamaFileType:
    """The type of most matrices; base's own value where that type is still the same (Q4_K_S stays Q4_K_S)."""
    was = _most(base.tensors.values())
    now = _most(tensors)
    old = base.metadata(FILE_TYPE)
    if now == was and old in set(LlamaFileType) - {LlamaFileType.GUESSED}:
        return LlamaFileType(old)
    return FILE_TYPES.get(now, LlamaFileType.__members__.get(f"MOSTLY_{now.name}", LlamaFileType.GUESSED))


def _most(tensors: Collection[TensorInfo] | Collection[_Tensor]) -> GGMLQuantizationType:
    matrices = Counter(tensor.type for tensor in tensors if len(tensor.shape) > 1)
    return max(matrices, key=lambda kind: (matrices[kind], kind), default=GGMLQuantizationType.F32)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return UINT64.pack(len(raw)) + raw


def _key(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return _text(key) + UINT32.pack(GGUFValueType.STRING) + _text(value)
    if isinstance(value, bool):
        kind = GGUFValueType.BOOL
    elif isinstance(value, float):
        kind = GGUFValueType.FLOAT32
    elif 0 <= value < 1 << 32:
        kind = GGUFValueType.UINT32
    else:
        kind = GGUFValueType.INT64
    try:
        return _text(key) + UINT32.pack(kind) + LAYOUTS[kind].pack(value)
    except (struct.error, OverflowError):
        raise OutputError(f"{key}: {value} does not fit a GGUF number; give it as text") from None


# --- the file ---


def _order(tensor: _Tensor) -> tuple[int, bytes]:
    block = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(block[1]) if block else -1, tensor.name.encode())


def _write(path: Path, keys: list[bytes], tensors: list[_Tensor], alignment: int, progress: Progress | None) -> None:
    tensors = sorted(tensors, key=_order)
    head = bytearray(MAGIC + UINT32.pack(VERSION) + UINT64.pack(len(tensors)) + UINT64.pack(len(keys)))
    head += b"".join(keys)
    offset = 0
    for tensor in tensors:
        dims = b"".join(UINT64.pack(size) for size in reversed(tensor.shape))
        head += _text(tensor.name) + UINT32.pack(len(tensor.shape)) + dims
        head += UINT32.pack(tensor.type) + UINT64.pack(offset)
        offset += tensor.nbytes + _padding(tensor.nbytes, alignment)
    head += bytes(_padding(len(head), alignment))
    _check_room(path, len(head) + offset)
    with atomic(path) as file:
        file.write(head)
        _write_tensors(file, tensors, alignment, progress)


def _write_tensors(file: BinaryIO, tensors: list[_Tensor], alignment: int, progress: Progress | None) -> None:
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        for part in tensor.parts():
            file.write(np.ascontiguousarray(part).data)
            done += part.nbytes
            if progress is not None:
                progress(done, total)
        file.write(bytes(_padding(tensor.nbytes, alignment)))


def _padding(count: int, alignment: int) -> int:
    return -count % alignment


def _check_room(path: Path, needed: int) -> None:
    """Before the first byte: a disk that runs full halfway costs the user an hour and other programs their files."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if folder is None:
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{path}: needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; "
            f"free some space or choose another --output-dir"
        )
