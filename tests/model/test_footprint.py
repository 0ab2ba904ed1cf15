"""Memory estimates from the header: their parts, compared with the loaded model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import families
import tiny
from expertune.config import Config
from expertune.estimate.capability import estimate
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config
from expertune.model.load import load, place
from expertune.model.memory import (
    LIBRARIES,
    MemoryEstimate,
    RowShape,
    adapter_numbers,
    estimate_memory,
    fits_cached,
    must_recompute,
    tokens_at_once,
    weights_bytes,
)

SHAPE = RowShape(prompt=220, answer=30, longest=250)
CONFIG = Config(threads=1, compute_dtype="fp32")


def needed(path: Path, shape: RowShape = SHAPE, *, cached: bool = True, recomputed: bool = False) -> MemoryEstimate:
    with GGUFFile(path) as file:
        model_config = read_config(file)
        return estimate_memory(
            file, model_config, shape, item=4, rank=16, batch=4, at_once=512, cached=cached, recomputed=recomputed
        )


def test_the_parts_add_up(tmp_path: Path):
    found = needed(tiny.make(tmp_path / "a.gguf", layers=6))
    assert found.libraries == LIBRARIES
    assert found.peak == LIBRARIES + found.base + found.adapter + max(found.loading, found.working)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_adapter_parameters_equal_those_of_the_loaded_model(tmp_path: Path, name: str):
    path = families.make(tmp_path / "a.gguf", families.FAMILIES[name])
    with GGUFFile(path) as file:
        built = load(file, CONFIG, place(file, CONFIG))
        assert adapter_numbers(file, built.model_config, CONFIG.rank) == built.lora.values_P.numel()


def test_fewer_adapted_blocks_take_less(tmp_path: Path):
    with GGUFFile(tiny.make(tmp_path / "a.gguf", layers=6)) as file:
        config = Config(threads=1, compute_dtype="fp32", layers=2)
        built = load(file, config, place(file, config))
        assert adapter_numbers(file, built.model_config, CONFIG.rank, first=4) == built.lora.values_P.numel()
        whole, upper = (
            estimate_memory(
                file, built.model_config, SHAPE, item=4, rank=16, batch=16, at_once=4096, cached=True, recomputed=False,
                first=first,
            )
            for first in (0, 4)
        )  # fmt: skip
        assert upper.adapter == pytest.approx(whole.adapter / 3) and upper.working < whole.working


@pytest.mark.parametrize("tied", [False, True])
def test_the_base_is_all_but_the_embeddings_that_are_read_row_by_row(tmp_path: Path, tied: bool):
    with GGUFFile(tiny.make(tmp_path / "a.gguf", tied=tied)) as file:
        every = sum(math.prod(info.shape) for info in file.tensors.values())
        embeddings = 0 if tied else math.prod(file.tensors["token_embd.weight"].shape)
        assert weights_bytes(file, 2) == 2 * (every - embeddings)
        size = weights_bytes(file, 4)
        assert fits_cached(file, 4, 2 * size + 2)
        assert not fits_cached(file, 4, 2 * size)


def test_quantised_weights_and_recomputation_take_less(tmp_path: Path):
    path = tiny.make(tmp_path / "a.gguf", qtype="Q4_K", layers=6)
    whole, packed = needed(path), needed(path, cached=False)
    assert packed.base < whole.base / 2
    assert (whole.loading > 0, packed.loading) == (True, 0)
    assert needed(path, recomputed=True).working < whole.working


def test_activations_grow_with_the_pack(tmp_path: Path):
    path = tiny.make(tmp_path / "a.gguf", layers=6)
    long = RowShape(prompt=970, answer=30, longest=1000)
    assert needed(path, long).working > 1.5 * needed(path).working
    with GGUFFile(path) as file:
        model_config = read_config(file)
        assert must_recompute(model_config, 1000, 4, 10_000_000)
        assert not must_recompute(model_config, 1000, 4, 1_000_000_000)


@pytest.mark.parametrize(("row", "rows", "pack", "largest"), [(100, 4, 4, 400), (250, 4, 2, 500), (900, 4, 1, 900)])
def test_packs_are_those_of_the_trainer(row: int, rows: int, pack: int, largest: int):
    shape = RowShape(prompt=row - 10, answer=10, longest=row)
    assert shape.pack_rows(rows, 512) == pack
    assert shape.largest_pack(pack, 512) == largest


def test_packs_are_larger_where_fewer_blocks_keep_activations(tmp_path: Path):
    with GGUFFile(tiny.make(tmp_path / "a.gguf", layers=6)) as file:
        config = read_config(file)
    assert [tokens_at_once("cpu", config, first) for first in (0, 2, 4)] == [512, 768, 1536]


def test_a_shared_prefix_is_computed_once():
    assert RowShape(prompt=190, answer=10, longest=200, shared=60).pack_rows(4, 620) == 4
    assert RowShape(prompt=190, answer=10, longest=200, shared=60).pack_rows(4, 619) == 2
    assert RowShape(prompt=90, answer=10, longest=100, shared=40).largest_pack(4, 512) == 4 * 60 + 40


def test_quantised_weights_if_float_copies_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("expertune.estimate.capability.multiplies_bf16", lambda: False)
    with GGUFFile(tiny.make(tmp_path / "a.gguf", qtype="Q4_K", layers=8)) as file:
        whole = estimate(file, SHAPE).memory
        assert whole.cached
        for free, cached in ((whole.peak, True), (whole.peak - 1, False)):
            monkeypatch.setattr("expertune.estimate.capability.free_memory", lambda free=free: free)
            found = estimate(file, SHAPE).memory
            assert (found.cached, found.recomputed) == (cached, not cached)
