"""Damaged, cut and foreign files: one clear line each, and no memory taken on a file's bare word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from expertune.errors import FineTuningNotSupportedError, ModelFileError
from expertune.gguf.quants import can_dequantize
from expertune.gguf.read import GGUFFile, read_metadata

Tensor = tuple[str, Sequence[int], int, int]  # name, dimensions as in the file, type, offset
WEIGHT: Tensor = ("w", (32, 2), Type.F32, 0)


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def pack(
    *,
    keys: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (WEIGHT,),
    data: int = 256,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A GGUF written by hand, sound unless an argument makes it otherwise."""
    counts = (len(tensors) if tensor_count is None else tensor_count, len(keys) if key_count is None else key_count)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys)
    for name, dims, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return head + bytes(-len(head) % 32 + data)


def fault(path: Path, content: bytes) -> str:
    """The one line that opening such a file gives; reading its metadata alone gives the same, or no error."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        GGUFFile(path)
    message = str(error.value)
    try:
        read_metadata(path)
    except ModelFileError as same:
        assert str(same) == message
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_the_hand_made_file_is_sound(path: Path):
    path.write_bytes(pack(keys=[key("a", Value.UINT8, b"\1"), key("b", Value.STRING, text("x"))]))
    with GGUFFile(path) as file:
        assert (file.metadata("a"), file.metadata("b"), file.tensor("w").shape) == (1, "x", (2, 32))


def test_version_2_is_read(path: Path):
    path.write_bytes(pack(version=2))
    with GGUFFile(path) as file:
        assert file.version == 2 and file.tensor("w").shape == (2, 32)


def test_metadata_of_a_file_whose_tensors_are_damaged_or_of_a_newer_type(path: Path):
    for tensors in ([("w", (32,), 2**32 - 1, 0)], [WEIGHT, WEIGHT]):
        path.write_bytes(pack(keys=[key("b", Value.STRING, text("x"))], tensors=tensors, data=0))
        assert read_metadata(path) == {"b": "x"}


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"G", "is not a GGUF but a text file"),
    (b"GGUF", "truncated: the header ends at byte 8 of 4"),
    (b"GGUF\3\0\0\0", "truncated: the header"),
    (b"id,rating\n1,Match\n", "is not a GGUF but a text file"),
    (b"\x08\0\0\0\0\0\0\0{\"a\":{}}", "is not a GGUF but a safetensors file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"<!DOCTYPE html>", "HTML page"),
    (b"\x7fELF" + bytes(60), "some other binary file"),
    (pack(version=1), "version 1, which cannot be read"),
    (pack(version=99), "version 99, which cannot be read"),
    (b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(64), "is a big-endian GGUF"),
])  # fmt: skip
def test_what_is_no_gguf(path: Path, content: bytes, words: str):
    assert words in fault(path, content)


def archived(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    return path.read_bytes()


def tarred(path: Path) -> bytes:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.gguf"), io.BytesIO())
    return path.read_bytes()


def saved(path: Path, *, zipped: bool) -> bytes:
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


FORMATS: dict[str, Callable[[Path], bytes]] = {
    "a PyTorch checkpoint; convert it": lambda path: saved(path, zipped=True),
    "a Python pickle (an old PyTorch checkpoint?)": lambda path: saved(path, zipped=False),
    "a zip archive; unpack it": lambda path: archived(path, "model.gguf"),
    "a tar archive": tarred,
    "a gzip archive": lambda path: gzip.compress(b"x"),
    "a bzip2 archive": lambda path: bz2.compress(b"x"),
    "an xz archive": lambda path: lzma.compress(b"x"),
    "a zstandard archive": lambda path: pyarrow.compress(b"x", codec="zstd", asbytes=True),
    "an HDF5 file": lambda path: b"\x89HDF\r\n\x1a\n" + bytes(16),
    "an ONNX model": lambda path: b"\x08\x07\x12\x07pytorch\x1a\x032.1",
    "a safetensors file": lambda path: struct.pack("<Q", 2) + b"{}",
    "a Git LFS pointer; fetch the file itself (git lfs pull)": lambda path: (
        b"version https://git-lfs.github.com/spec/v1\n"
    ),
    "an HTML page (a failed download?)": lambda path: b"\n<!DOCTYPE html><html>",
    "a NumPy array": lambda path: b"\x93NUMPY\1\0",
    "a text file": lambda path: b"FROM llama3\n",
    "some other binary file": lambda path: bytes(range(200)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_foreign_format_is_named(path: Path, name: str):
    assert f"is not a GGUF but {name}" in fault(path, FORMATS[name](path))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (4, "the unknown type 4: Q4_2, which llama.cpp removed; get the model in Q4_K_M"),
        (31, "the unknown type 31: Q4_0_4_4, which llama.cpp removed; get the model in Q4_0"),
        (38, "the unknown type 38: IQ4_NL_8_8, which llama.cpp removed; get the model in IQ4_NL"),
        (99, "the unknown type 99: update the gguf package, or get another file"),
    ],
)
def test_a_removed_type_says_what_to_use_instead(path: Path, number: int, says: str):
    assert says in fault(path, pack(tensors=[("w", (32,), number, 0)]))


def test_what_is_no_file(tmp_path: Path):
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "none", "no such file"),
        (tmp_path / ("x" * 300), "cannot be read|no such file"),
    ):
        with pytest.raises(ModelFileError, match=words):
            GGUFFile(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_refused_without_waiting(path: Path):
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything; Windows has no mode")
def test_an_unreadable_file(path: Path):
    path.write_bytes(pack())
    path.chmod(0)
    with pytest.raises(ModelFileError, match=r"cannot be read .Permission denied."):
        GGUFFile(path)


HUGE = 2**63 - 1


@pytest.mark.parametrize(("content", "words"), [
    (pack(tensor_count=2**64 - 1), "tensors and 0 metadata keys cannot fit"),
    (pack(key_count=2**64 - 1), "metadata keys cannot fit"),
    (pack(keys=[text("", 2**64 - 1)]), "a metadata key is 18446744073709551615 bytes long"),
    (pack(keys=[key("", Value.UINT8, b"\1")]), "a metadata key is 0 bytes long"),
    (pack(keys=[key(b"\xff\xfe", Value.UINT8, b"\1")]), "a metadata key is not text"),
    (pack(keys=[key("k", 99, b"\1")]), "metadata 'k' has the unknown type 99"),
    (pack(keys=[key("k", Value.STRING, text("", HUGE))]), "truncated: metadata 'k'"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", Value.FLOAT64, HUGE))]), "truncated: metadata 'k'"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", Value.STRING, HUGE))]), "truncated: metadata 'k'"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", Value.STRING, 2) + text("", HUGE))]), "truncated"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", Value.STRING, 2) + text("", 2**64 - 1))]), "truncated"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", 77, 1))]), "metadata 'k' has the unknown type 77"),
    (pack(keys=[key("k", Value.ARRAY, struct.pack("<IQ", Value.ARRAY, 1))]), "an array of arrays"),
    (pack(keys=[key("k", Value.UINT8, b"\1")] * 2), "metadata 'k' is duplicated"),
    *((pack(keys=[key("general.alignment", Value.UINT32, struct.pack("<I", n))]), "not a power of two")
      for n in (0, 3, 48)),
    (pack(keys=[key("general.alignment", Value.STRING, text("32"))]), "not a power of two"),
    (pack(keys=[key("general.alignment", Value.UINT32, struct.pack("<I", 2**31))]), "truncated: tensor w"),
    (pack(tensors=[WEIGHT, WEIGHT]), "tensor w is duplicated"),
    (pack(tensors=[("", (32,), Type.F32, 0)]), "a tensor's name is 0 bytes long"),
    (pack(tensors=[("n" * 64, (32,), Type.F32, 0)]), "a tensor's name is 64 bytes long"),
    (pack(tensors=[("w", (), Type.F32, 0)]), "has 0 dimensions"),
    (pack(tensors=[("w", (1, 1, 1, 1, 1), Type.F32, 0)]), "has 5 dimensions"),
    (pack(tensors=[("w", (32, 0), Type.F32, 0)]), "cannot have the shape (0, 32)"),
    (pack(tensors=[("w", (33,), Type.Q8_0, 0)]), "cannot have the shape (33,) in Q8_0"),
    (pack(tensors=[("w", (2**32, 2**32), Type.F32, 0)]), "truncated: tensor w"),
    (pack(tensors=[("w", (2**63, 2**63, 2**63, 2**63), Type.F32, 0)]), "truncated: tensor w"),
    (pack(tensors=[("w", (32,), 4, 0)]), "tensor w has the unknown type 4"),
    (pack(tensors=[("w", (32,), 2**32 - 1, 0)]), "tensor w has the unknown type"),
    (pack(tensors=[("w", (32,), Type.F32, 31)]), "does not begin at a multiple of 32"),
    (pack(tensors=[("w", (32,), Type.F32, 2**63)]), "truncated: tensor w"),
    (pack(tensors=[WEIGHT, ("v", (8,), Type.F32, 224)]), "tensors w and v overlap"),
    (pack(data=255), "truncated: tensor w ends at byte 352 of 351; download or copy the file again"),
])  # fmt: skip
def test_damage(path: Path, content: bytes, words: str):
    assert words in fault(path, content)


# --- any damage ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("model") / "model.gguf", layers=1, qtype="Q8_0")


def look_at_all(path: Path) -> None:
    with GGUFFile(path) as file:
        assert all(field.value is not None for field in file.fields.values())
        for info in file.tensors.values():
            if can_dequantize(info.type):
                assert file.tensor(info.name).shape == info.shape
            else:
                with pytest.raises(FineTuningNotSupportedError, match=info.type.name):
                    file.tensor(info.name)


def test_cut_at_every_boundary(model: Path, path: Path):
    content = model.read_bytes()
    with GGUFFile(model) as file:
        ends = {info.offset + info.nbytes for info in file.tensors.values()}
        bounds = {24, *ends, *(field.start for field in file.fields.values()), *(f.stop for f in file.fields.values())}
    for bound in bounds:
        for cut in {bound - 1, bound, bound + 1} & set(range(max(ends))):
            assert "download or copy the file again" in fault(path, content[:cut])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere(model: Path, path: Path, data: st.DataObject):
    content = model.read_bytes()
    with GGUFFile(model) as file:
        last = max(info.offset + info.nbytes for info in file.tensors.values())
    fault(path, content[: data.draw(st.integers(0, last - 1))])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a flipped bit in a scale makes infinities
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_of_the_header_changed(model: Path, path: Path, data: st.DataObject):
    content = bytearray(model.read_bytes())
    with GGUFFile(model) as file:
        head = min(info.offset for info in file.tensors.values())
        starts = [field.start for field in file.fields.values()]
    places = st.one_of(st.integers(0, head - 1), st.sampled_from(starts).flatmap(lambda s: st.integers(s - 4, s + 12)))
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place] = byte
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert isinstance(read_metadata(path), dict)
        GGUFFile(path).close()
        opened = True
    except ModelFileError:
        opened = False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * len(content)
    if opened:
        look_at_all(path)
