"""The first rung: our dequantised weights are gguf-py's, bit for bit, for every type that it can dequantise."""

from __future__ import annotations

import platform

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from expertune.gguf import quants

TYPES = [kind for kind in Type if quants.can_dequantize(kind)]
FUSED = platform.machine().lower() not in ("x86_64", "amd64")  # compilers there may fuse multiply and add


def random_rows(kind: Type, rows: int, blocks: int) -> np.ndarray:
    """Random bytes: every code, sign and scale occurs, subnormal, infinite and NaN scales too."""
    return np.random.default_rng(int(kind)).integers(0, 256, (rows, blocks * quants.BLOCKS[kind][1]), dtype=np.uint8)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    if FUSED:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=np.nanmax(np.abs(theirs[np.isfinite(theirs)])) * 1e-6)
        return
    nan = np.isnan(ours) & np.isnan(theirs)  # a NaN's payload says nothing
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


def test_every_type_of_gguf_py_is_covered():
    theirs = {Type.F32, Type.F16}
    for kind in Type:
        try:
            gguf.quants.dequantize(np.zeros((1, quants.BLOCKS[kind][1]), np.uint8), kind)
        except NotImplementedError:
            continue
        theirs.add(kind)
    assert set(TYPES) == theirs


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # gguf-py multiplies the infinite scales too
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_dequantize_is_bit_for_bit_that_of_gguf_py(kind: Type):
    packed_RB = random_rows(kind, rows=64, blocks=40)
    assert_same_bits(quants.dequantize(packed_RB, kind), gguf.quants.dequantize(packed_RB, kind))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_without_the_engines_code_the_values_are_the_same(kind: Type, monkeypatch: pytest.MonkeyPatch):
    packed_RB = random_rows(kind, rows=8, blocks=4)
    fast_RI = quants.dequantize(packed_RB, kind)
    monkeypatch.setattr(quants, "_row_decoder", lambda kind: None)
    assert_same_bits(quants.dequantize(packed_RB, kind), fast_RI)


def test_all_half_precision_numbers():
    bits_RB = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256).view(np.uint8)
    assert_same_bits(quants.dequantize(bits_RB, Type.F16), gguf.quants.dequantize(bits_RB, Type.F16))
    assert_same_bits(quants.dequantize(bits_RB, Type.BF16), gguf.quants.dequantize(bits_RB, Type.BF16))


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0], ids=lambda kind: kind.name)
def test_quantize_is_that_of_gguf_py(kind: Type):
    weight_RI = np.random.default_rng(1).standard_normal((32, 256), dtype=np.float32)
    theirs_RB = gguf.quants.quantize(weight_RI, kind).view(np.uint8)
    np.testing.assert_array_equal(quants.quantize(weight_RI, kind), theirs_RB)
