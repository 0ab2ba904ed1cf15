"""The header reader agrees with gguf-py, and a damaged file gets a line instead of a crash."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from expertune.engine.header import read_header
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
