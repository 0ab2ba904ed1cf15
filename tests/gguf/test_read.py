from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType

import tiny
from expertune.gguf.read import GGUFFile, read_metadata


@pytest.fixture(scope="module", params=[("bpe", "Q4_K"), ("spm", "F16")], ids=str)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocab, qtype = request.param
    return tiny.make(
        tmp_path_factory.mktemp("model") / "model.gguf",
        vocab=vocab,
        qtype=qtype,
        types={"ffn_down": "Q6_K"} if qtype == "Q4_K" else None,
        rope_freqs=True,
    )


def test_all_that_gguf_py_reads(model: Path):
    theirs = gguf.GGUFReader(model)
    with GGUFFile(model) as ours:
        assert (ours.version, ours.alignment) == (3, 32)
        assert ours.fields.keys() == {key for key in theirs.fields if not key.startswith("GGUF.")}
        for key, field in ours.fields.items():
            assert field.value == theirs.fields[key].contents(), key
            assert field.type == theirs.fields[key].types[0], key
        assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            info = ours.tensors[tensor.name]
            assert info.shape == tuple(int(size) for size in reversed(tensor.shape))
            assert (info.type, info.offset, info.nbytes) == (tensor.tensor_type, tensor.data_offset, tensor.n_bytes)
            np.testing.assert_array_equal(ours.blocks(tensor.name).reshape(-1), tensor.data.reshape(-1).view(np.uint8))
            dequantised = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(ours.tensor(tensor.name), dequantised.reshape(info.shape))


def test_blocks_are_a_view_of_the_file(model: Path):
    with GGUFFile(model) as file:
        packed_RB = file.blocks("blk.0.ffn_up.weight")
        assert packed_RB.base is not None and not packed_RB.flags.writeable
        assert packed_RB.shape[0] == file.tensors["blk.0.ffn_up.weight"].shape[0]
    assert int(packed_RB.sum()) > 0  # the view outlives the file object


def test_metadata_has_a_default(model: Path):
    with GGUFFile(model) as file:
        assert file.metadata("general.architecture") == "llama"
        assert file.metadata("tokenizer.ggml.add_bos_token") is True
        assert file.metadata("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
        assert file.metadata("no.such.key", 7) == 7 and file.metadata("no.such.key") is None


def test_metadata_without_the_arrays(model: Path):
    theirs = gguf.GGUFReader(model).fields
    plain = {
        name: field.contents()
        for name, field in theirs.items()
        if field.types[0] != GGUFValueType.ARRAY and not name.startswith("GGUF.")
    }
    assert read_metadata(model) == plain
    assert any(field.types[0] == GGUFValueType.ARRAY for field in theirs.values())


def test_every_type_of_value(tmp_path: Path):
    values = {
        GGUFValueType.UINT8: 255, GGUFValueType.INT8: -128, GGUFValueType.UINT16: 65535, GGUFValueType.INT16: -32768,
        GGUFValueType.UINT32: 2**32 - 1, GGUFValueType.INT32: -(2**31), GGUFValueType.FLOAT32: 0.5,
        GGUFValueType.BOOL: True, GGUFValueType.STRING: "Grüße 漢", GGUFValueType.UINT64: 2**64 - 1,
        GGUFValueType.INT64: -(2**63), GGUFValueType.FLOAT64: 0.1,
    }  # fmt: skip
    writer = gguf.GGUFWriter(tmp_path / "values.gguf", "llama")
    for kind, value in values.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"many.{kind.name}", [value, value], GGUFValueType.ARRAY, sub_type=kind)
    writer.add_tensor("t", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "values.gguf") as file:
        for kind, value in values.items():
            assert file.fields[f"one.{kind.name}"].value == value
            assert file.fields[f"many.{kind.name}"].value == [value, value]
        assert file.tensors["t"].type == Type.F32 and file.tensor("t").tolist() == [[1, 1, 1], [1, 1, 1]]


def test_another_alignment(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(4096)
    for name in ("a", "b"):
        writer.add_tensor(name, np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "aligned.gguf") as file:
        assert file.alignment == 4096 and file.tensors["b"].offset % 4096 == 0
        assert file.tensor("b").tolist() == [0, 1, 2, 3, 4]
