from __future__ import annotations

import json
import os
import shutil
import tracemalloc
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

import tiny
from expertune.errors import OutputError, TrainingFailedError
from expertune.files import sha256
from expertune.gguf import quants
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import Replacement, write_adapter, write_model

LAST = ["general.quantization_version", "general.file_type"]
UP = "blk.1.ffn_up.weight"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve blocks, so that the order by number and the order by name differ."""
    return tiny.make(
        tmp_path_factory.mktemp("base") / "base.gguf",
        layers=12,
        qtype="Q4_K",
        types={"ffn_down": "Q6_K"},
        rope_freqs=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "model.gguf"


def rewrite(path: Path, source: Path, replaced: Mapping[str, Replacement] | None = None, **more: Any) -> GGUFFile:
    with GGUFFile(source) as base:
        write_model(path, base, replaced=replaced or {}, **{"metadata": {}, **more})
    return GGUFFile(path)


def change(base: GGUFFile, name: str, kind: Type, factor: float = 1.1) -> Replacement:
    return Replacement(kind, lambda: quants.quantize(base.tensor(name) * np.float32(factor), kind))


def test_with_nothing_replaced_every_byte_of_content_stays(base_path: Path, path: Path):
    with GGUFFile(base_path) as base, rewrite(path, base_path) as ours:
        assert {key: (f.type, f.raw) for key, f in ours.fields.items()} == {
            key: (f.type, f.raw) for key, f in base.fields.items()
        }
        assert ours.tensors.keys() == base.tensors.keys()
        for name, info in base.tensors.items():
            assert (ours.tensors[name].shape, ours.tensors[name].type) == (info.shape, info.type)
            np.testing.assert_array_equal(ours.blocks(name), base.blocks(name))


def test_gguf_py_reads_the_same(base_path: Path, path: Path):
    rewrite(path, base_path).close()
    base, ours = gguf.GGUFReader(base_path), gguf.GGUFReader(path)
    was = {tensor.name: tensor for tensor in base.tensors}
    assert {k: f.contents() for k, f in ours.fields.items()} == {k: f.contents() for k, f in base.fields.items()}
    for tensor in ours.tensors:
        np.testing.assert_array_equal(tensor.data, was[tensor.name].data)


def test_the_order_is_that_of_an_import(base_path: Path, path: Path):
    with rewrite(path, base_path, metadata={"expertune.rank": 16}) as ours:
        names, keys = list(ours.tensors), list(ours.fields)
        offsets = [info.offset for info in ours.tensors.values()]
    assert names[:4] == ["output.weight", "output_norm.weight", "rope_freqs.weight", "token_embd.weight"]
    blocks = [name.split(".")[1] for name in names[4:]]
    assert [int(block) for block in blocks] == sorted(int(block) for block in blocks)
    for block in range(12):
        inside = [name for name in names if name.startswith(f"blk.{block}.")]
        assert len(inside) == 9 and inside == sorted(inside)
    assert offsets == sorted(offsets)
    assert keys[-2:] == LAST and keys[-3] == "expertune.rank"


def test_rewriting_our_file_changes_nothing(base_path: Path, path: Path, tmp_path: Path):
    rewrite(path, base_path, metadata={"expertune.rank": 16}).close()
    rewrite(tmp_path / "again.gguf", path).close()
    assert sha256(tmp_path / "again.gguf") == sha256(path)


def test_a_replaced_tensor_is_new_and_the_others_stay(base_path: Path, path: Path):
    with GGUFFile(base_path) as base:
        new = change(base, UP, Type.Q8_0)
        with rewrite(path, base_path, {UP: new}) as ours:
            assert ours.tensors[UP].type == Type.Q8_0 and ours.tensors[UP].shape == base.tensors[UP].shape
            np.testing.assert_array_equal(ours.blocks(UP), new.make())
            for name in base.tensors.keys() - {UP}:
                np.testing.assert_array_equal(ours.blocks(name), base.blocks(name))


def test_replacements_are_made_one_at_a_time_in_the_files_order(base_path: Path, path: Path):
    made: list[str] = []
    with GGUFFile(base_path) as base:

        def note(name: str) -> Replacement:
            new = change(base, name, Type.Q5_K)
            return Replacement(new.type, lambda: (made.append(name), new.make())[1])

        names = [name for name in base.tensors if "ffn_up" in name]
        rewrite(path, base_path, {name: note(name) for name in reversed(names)}).close()
    assert made == names  # each once


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path):
    source = tiny.make(tmp_path / "wide.gguf", width=512, ffn=2048, layers=12, qtype="F32")
    with GGUFFile(source) as base:
        names = [name for name in base.tensors if "ffn" in name and "norm" not in name]
        largest = max(base.tensors[name].nbytes for name in names)
        replaced = {name: change(base, name, Type.F32) for name in names}
        tracemalloc.start()
        write_model(tmp_path / "out.gguf", base, replaced=replaced, metadata={})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * largest < source.stat().st_size / 8


def test_metadata_is_set_and_changed(base_path: Path, path: Path):
    values = {
        "general.name": "tuned “Grüße”",
        "expertune.seed": 42,
        "expertune.alpha": 0.5,
        "expertune.ok": True,
        "expertune.big": 2**40,
        "expertune.low": -3,
    }
    with GGUFFile(base_path) as base:
        before = list(base.fields)
    with rewrite(path, base_path, metadata=values) as ours:
        assert {key: ours.metadata(key) for key in values} == values
        assert list(ours.fields).index("general.name") == before.index("general.name")
    assert gguf.GGUFReader(path).fields["general.name"].contents() == values["general.name"]


@pytest.mark.parametrize("value", [2**70, 1e300])
def test_a_number_that_does_not_fit_is_refused(base_path: Path, path: Path, value: float):
    with pytest.raises(OutputError, match=r"^expertune.n: "):
        rewrite(path, base_path, metadata={"expertune.n": value})
    assert not path.exists()


@pytest.mark.parametrize(("qtype", "replacement", "count", "expected"), [
    ("Q4_K", "Q4_K", 7, LlamaFileType.MOSTLY_Q4_K_S),  # the base's own name for it stays
    ("Q4_K", "Q6_K", 1, LlamaFileType.MOSTLY_Q4_K_S),
    ("Q4_K", "Q6_K", 7, LlamaFileType.MOSTLY_Q6_K),
    ("Q4_K", "Q5_K", 7, LlamaFileType.MOSTLY_Q5_K_M),
    ("Q6_K", "Q4_K", 7, LlamaFileType.MOSTLY_Q4_K_M),
    ("Q8_0", "F32", 7, LlamaFileType.ALL_F32),
    ("F16", "BF16", 7, LlamaFileType.MOSTLY_BF16),
])  # fmt: skip
def test_the_file_type_is_that_of_most_matrices(
    tmp_path: Path, qtype: str, replacement: str, count: int, expected: LlamaFileType
):
    source = tiny.make(tmp_path / "base.gguf", layers=1, width=256, qtype=qtype)
    with GGUFFile(source) as base:
        names = [name for name in base.tensors if name.startswith("blk.") and len(base.tensors[name].shape) == 2]
        replaced = {name: change(base, name, Type[replacement]) for name in names[:count]}
        with rewrite(tmp_path / "out.gguf", source, replaced) as ours:
            assert ours.metadata("general.file_type") == expected


def test_a_base_without_the_two_keys_gets_them(base_path: Path, tmp_path: Path):
    source = tmp_path / "bare.gguf"
    rewrite(source, base_path).close()
    content = source.read_bytes()
    for key in LAST:  # renamed in place, so that the file stays sound
        content = content.replace(key.encode(), b"x" + key.encode()[1:])
    source.write_bytes(content)
    with rewrite(tmp_path / "out.gguf", source) as ours:
        assert list(ours.fields)[-2:] == LAST
        assert ours.metadata("general.quantization_version") == gguf.GGML_QUANT_VERSION
        assert ours.metadata("general.file_type") == LlamaFileType.MOSTLY_Q4_K_M


def test_another_alignment_is_kept(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(512)
    for name in ("b", "a"):
        writer.add_tensor(name, np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with rewrite(tmp_path / "out.gguf", tmp_path / "aligned.gguf") as ours:
        assert ours.alignment == 512 and list(ours.tensors) == ["a", "b"]
        assert ours.tensors["b"].offset - ours.tensors["a"].offset == 512
        assert (tmp_path / "out.gguf").stat().st_size % 512 == 0


def test_progress_counts_to_the_end(base_path: Path, path: Path):
    seen: list[tuple[int, int]] = []
    with rewrite(path, base_path, progress=lambda done, total: seen.append((done, total))) as ours:
        total = sum(info.nbytes for info in ours.tensors.values())
    assert seen[-1] == (total, total) and seen == sorted(seen) and len(seen) == len(ours.tensors)


# --- what goes wrong ---


@pytest.mark.parametrize("rows", [np.zeros((3, 3), np.uint8), np.zeros((512, 256), np.float32)], ids=["shape", "type"])
def test_a_replacement_that_does_not_fit_leaves_no_file(base_path: Path, path: Path, rows: np.ndarray):
    with pytest.raises(TrainingFailedError, match=f"^{UP}: "):
        rewrite(path, base_path, {UP: Replacement(Type.Q8_0, lambda: rows)})
    assert list(path.parent.iterdir()) == []


def test_a_type_that_does_not_fit_the_rows_is_refused_before_writing(tmp_path: Path):
    source = tiny.make(tmp_path / "base.gguf", width=64)
    with pytest.raises(TrainingFailedError, match="multiples of 256, not 64"):
        rewrite(tmp_path / "out.gguf", source, {UP: Replacement(Type.Q4_K, lambda: np.zeros((1, 1), np.uint8))})


def test_an_absent_tensor_cannot_be_replaced(base_path: Path, path: Path):
    with pytest.raises(TrainingFailedError, match=r"has no tensor blk.99"):
        rewrite(path, base_path, {"blk.99.ffn_up.weight": Replacement(Type.Q8_0, lambda: np.zeros((1, 1), np.uint8))})


def test_the_base_is_never_overwritten(base_path: Path, tmp_path: Path):
    before = sha256(base_path)
    (tmp_path / "link.gguf").symlink_to(base_path)
    for target in (base_path, tmp_path / "link.gguf"):
        with pytest.raises(OutputError, match="is the base model itself"):
            rewrite(target, base_path)
    assert sha256(base_path) == before


def test_a_disk_without_room_is_seen_before_the_first_byte(
    base_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
):
    free = base_path.stat().st_size // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(OutputError, match=r"needs 0\.\d\d GB and its disk has 0\.\d\d GB free"):
        rewrite(path, base_path)
    assert not path.parent.exists()


@pytest.mark.skipif(not Path("/dev/full").exists() or os.name == "nt", reason="needs Linux's resource limits")
def test_a_disk_that_runs_full_leaves_no_half_file(base_path: Path, path: Path):
    import resource
    import signal

    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (base_path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            rewrite(path, base_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(path.parent.iterdir()) == []


# --- adapter ---


def adapter(base: GGUFFile, rank: int = 4, scale: float = 0.5) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng, tensors = np.random.default_rng(0), {}
    for name, info in base.tensors.items():
        if name.startswith("blk.") and len(info.shape) == 2:
            a_RI = rng.standard_normal((rank, info.width), dtype=np.float32) / np.float32(np.sqrt(info.width))
            tensors[name] = (a_RI, np.float32(scale) * rng.standard_normal((info.rows, rank), dtype=np.float32))
    return tensors


def test_the_adapter_holds_what_llama_cpp_asks_for(base_path: Path, path: Path):
    with GGUFFile(base_path) as base:
        tensors = adapter(base)
    write_adapter(path, architecture="llama", alpha=32, tensors=tensors, metadata={"general.name": "mine"})
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert keys == {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 32.0,
        "general.name": "mine",
    }
    assert reader.fields["adapter.lora.alpha"].types == [gguf.GGUFValueType.FLOAT32]
    ours = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(ours) == 2 * len(tensors)
    for name, (a_RI, b_OR) in tensors.items():
        np.testing.assert_array_equal(ours[f"{name}.lora_a"], a_RI)
        np.testing.assert_array_equal(ours[f"{name}.lora_b"], b_OR)


def test_half_precision_adapters_stay_so(path: Path):
    pair = (np.ones((2, 8), np.float16), np.ones((4, 2), np.float16))
    write_adapter(path, architecture="llama", alpha=1, tensors={UP: pair}, metadata={})
    with GGUFFile(path) as file:
        assert {info.type for info in file.tensors.values()} == {Type.F16}


@pytest.mark.parametrize(("a", "b", "words"), [
    (np.full((2, 8), np.nan), np.ones((4, 2)), r"lora_a: holds NaN or infinity"),
    (np.ones((2, 8)), np.full((4, 2), np.inf), r"lora_b: holds NaN or infinity"),
    (np.ones((2, 8)), np.ones((4, 3)), r"do not make an adapter"),
    (np.ones((2, 8)), np.ones(4), r"do not make an adapter"),
])  # fmt: skip
def test_a_broken_adapter_is_refused(path: Path, a: np.ndarray, b: np.ndarray, words: str):
    with pytest.raises(TrainingFailedError, match=words):
        write_adapter(path, architecture="llama", alpha=1, tensors={UP: (a, b)}, metadata={})
    assert not path.exists()


# --- llama.cpp serves them ---


def first_logprobs(model: Path, lora: Path | None = None) -> dict[int, float]:
    """Log-probabilities of the 50 likeliest first tokens after a prompt, from llama.cpp itself."""
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path, params.port, params.api_keys, params.hostnames = str(model), 0, ["key"], ["127.0.0.1"]
    params.warmup, params.n_parallel, params.n_ctx = False, 1, 128
    if lora is not None:
        params.lora_adapters = [CommonAdapterLoraInfo(str(lora), 1.0)]
    server = Server(params)
    # the grammar keeps the token from being an end or half a character, which have no entry; logprobs are before it
    body = {"prompt": "cough and fever", "n_predict": 1, "n_probs": 50, "grammar": "root ::= [a-z]+"}
    request = urllib.request.Request(
        f"{server.listening_address}/completion",
        json.dumps(body).encode(),
        {"Authorization": "Bearer key", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}


@pytest.mark.slow
def test_llama_cpp_serves_the_rewritten_file_like_its_base(base_path: Path, path: Path):
    rewrite(path, base_path).close()
    assert first_logprobs(path) == first_logprobs(base_path)


@pytest.mark.slow
def test_llama_cpp_finds_adapter_and_merged_model_alike(tmp_path: Path):
    source, rank, alpha = tiny.make(tmp_path / "base.gguf", layers=2), 4, 8.0
    with GGUFFile(source) as base:
        tensors = adapter(base, rank, scale=0.2)
        write_adapter(tmp_path / "lora.gguf", architecture="llama", alpha=alpha, tensors=tensors, metadata={})

        def merge(name: str) -> Replacement:
            a_RI, b_OR = tensors[name]
            merged_OI = base.tensor(name) + np.float32(alpha / rank) * (b_OR @ a_RI)
            return Replacement(Type.F32, lambda: quants.quantize(merged_OI, Type.F32))

        rewrite(tmp_path / "merged.gguf", source, {name: merge(name) for name in tensors}).close()
    plain, merged = first_logprobs(source), first_logprobs(tmp_path / "merged.gguf")
    adapted = first_logprobs(source, tmp_path / "lora.gguf")
    common = merged.keys() & adapted.keys()
    assert len(common) >= 45
    np.testing.assert_allclose([merged[i] for i in common], [adapted[i] for i in common], atol=5e-3)
    assert max(abs(merged[i] - plain.get(i, -20)) for i in merged) > 0.5
