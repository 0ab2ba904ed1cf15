"""The header reader agrees with gguf-py, and a damaged file gets a line instead of a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import families
import tiny
from expertune.engine.header import largest_context, read_header, tensor_names
from expertune.errors import ModelFileError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("header") / "model.gguf", layers=1, extra={"a.flag": True, "a.number": 7})


def test_agrees_with_gguf_py(model: Path):
    fields = gguf.GGUFReader(model).fields
    plain = {
        name: field.contents()
        for name, field in fields.items()
        if field.types[0] != gguf.GGUFValueType.ARRAY and not name.startswith("GGUF.")
    }
    assert read_header(model) == pytest.approx(plain)
    assert read_header(model)["a.flag"] is True
    assert tensor_names(model) == {tensor.name for tensor in gguf.GGUFReader(model).tensors}


@pytest.mark.parametrize(
    ("original", "expected"), [(512, 512), (600, 512), (100, 100), (4096, 1024), (0, 1024)], ids=str
)
def test_the_context_of_a_model_with_long_factors(tmp_path: Path, original: int, expected: int):
    """Whole steps of llama.cpp's, which rounds up: 600 would be served as 768."""
    phi3 = families.FAMILIES["phi3"]
    family = replace(phi3, keys=lambda z: {**phi3.keys(z), "rope.scaling.original_context_length": original})
    path = families.make(tmp_path / "model.gguf", family, context=1024)
    assert largest_context(path, read_header(path)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 128), ({"attention.temperature_length": 300}, 256), ({"attention.temperature_scale": 0.0}, 1024)],
    ids=["original", "its own", "none"],
)
def test_the_context_of_a_model_whose_queries_grow(tmp_path: Path, keys: dict[str, float], expected: int):
    mistral3 = families.FAMILIES["mistral3"]
    family = replace(mistral3, keys=lambda z: {**mistral3.keys(z), **keys})
    path = families.make(tmp_path / "model.gguf", family, context=1024)
    assert largest_context(path, read_header(path)) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_or_changed_files(model: Path, data: st.DataObject):
    content = bytearray(model.read_bytes()[:60_000])
    for at in data.draw(st.lists(st.integers(0, 2000), max_size=6)):
        content[at] = data.draw(st.sampled_from([0, 1, 9, 127, 255]))
    broken = model.with_name("broken.gguf")
    broken.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(read_header(broken), dict)
        assert isinstance(tensor_names(broken), frozenset)
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_what_is_wrong_is_said(model: Path):
    short = model.with_name("short.gguf")
    short.write_bytes(model.read_bytes()[:500])
    with pytest.raises(ModelFileError, match=r"short\.gguf: damaged or cut short"):
        read_header(short)
    short.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ModelFileError, match="not a GGUF"):
        read_header(short)
    with pytest.raises(ModelFileError, match="No such file"):
        read_header(model.with_name("absent.gguf"))
