from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from expertune.errors import FineTuningNotSupportedError, TrainingFailedError
from expertune.gguf import quants

MAKEABLE = [kind for kind in Type if quants.can_quantize(kind)]
# the first row of an IQ type builds its tables, which takes seconds
MARKED = [pytest.param(kind, marks=pytest.mark.slow if kind.name.startswith("IQ") else ()) for kind in MAKEABLE]


def weights(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


@pytest.mark.parametrize("kind", MARKED, ids=lambda kind: kind.name)
def test_what_is_quantised_comes_back_near(kind: Type):
    """Each bit halves the error of normal weights: 1.4 to 3.4 standard deviations times 2^-bits, by type."""
    weight_RI = weights(16, 512)
    packed_RB = quants.quantize(weight_RI, kind)
    block, size = quants.BLOCKS[kind]
    assert packed_RB.shape == (16, quants.bytes_per_row(kind, 512))
    error = np.sqrt(np.mean((quants.dequantize(packed_RB, kind) - weight_RI) ** 2))
    assert error <= (2**-9 if kind in quants.FLOATS else 3.5 * 2 ** (-8 * size / block))


def test_the_types_of_the_settings_can_be_made():
    assert {Type[name] for name in ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32")} <= set(MAKEABLE)


def test_types_that_need_an_importance_matrix_are_refused():
    assert not quants.can_quantize(Type.IQ2_XXS)
    with pytest.raises(TrainingFailedError, match=r"blk.0.attn_q.weight: IQ2_XXS cannot be made"):
        quants.quantize(weights(1, 256), Type.IQ2_XXS, name="blk.0.attn_q.weight")


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q6_K, Type.Q8_0, Type.F16, Type.F32], ids=lambda kind: kind.name)
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(kind: Type, threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quants, "CHUNK", 256)
    weight_RI = weights(31, 512)
    packed_RB = quants.quantize(weight_RI, kind, threads=1)
    np.testing.assert_array_equal(quants.quantize(weight_RI, kind, threads=threads), packed_RB)
    one_RI, many_RI = np.full_like(weight_RI, np.nan), np.full_like(weight_RI, np.nan)
    quants.dequantize_into(packed_RB, kind, one_RI, threads=1)
    quants.dequantize_into(packed_RB, kind, many_RI, threads=threads)
    np.testing.assert_array_equal(many_RI, one_RI)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 30])
def test_a_weight_that_is_no_number_is_refused(bad: float, row: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quants, "CHUNK", 256)
    weight_RI = weights(31, 256)
    weight_RI[row, 255] = bad
    for kind in (Type.F32, Type.Q4_K):
        with pytest.raises(TrainingFailedError, match=r"^blk.1.ffn_up.weight: holds NaN or infinity"):
            quants.quantize(weight_RI, kind, threads=4, name="blk.1.ffn_up.weight")


def test_numbers_beyond_f16_are_refused():
    biggest = np.full((1, 32), 65504, np.float32)
    assert np.isfinite(quants.dequantize(quants.quantize(biggest, Type.F16), Type.F16)).all()
    with pytest.raises(TrainingFailedError, match="beyond F16"):
        quants.quantize(biggest * 1.1, Type.F16)


def test_rows_that_do_not_fit_are_refused():
    assert quants.row_fits(Type.Q4_K, 512) and not quants.row_fits(Type.Q4_K, 320) and quants.row_fits(Type.Q8_0, 320)
    with pytest.raises(TrainingFailedError, match="multiples of 256, not 320"):
        quants.quantize(weights(2, 320), Type.Q4_K)


def test_integers_are_no_weights():
    with pytest.raises(FineTuningNotSupportedError, match="type I32"):
        quants.dequantize(np.zeros((1, 8), np.uint8), Type.I32)


def test_dequantize_into_takes_only_an_array_that_fits():
    packed_RB = quants.quantize(weights(4, 256), Type.Q4_K)
    for out in (
        np.empty((4, 256)),
        np.empty((4, 512), np.float32),
        np.empty((3, 256), np.float32),
        np.empty((256, 4), np.float32).T,
    ):
        with pytest.raises(ValueError, match=r"out_RI|does not hold"):
            quants.dequantize_into(packed_RB, Type.Q4_K, out, threads=1)


def test_rows_in_steps_are_read_as_they_lie():
    packed_RB = quants.quantize(weights(8, 256), Type.Q5_K)
    np.testing.assert_array_equal(
        quants.dequantize(packed_RB[::2], Type.Q5_K), quants.dequantize(packed_RB, Type.Q5_K)[::2]
    )


def test_without_the_engines_code_q8_0_can_still_be_made(monkeypatch: pytest.MonkeyPatch):
    weight_RI = weights(4, 256)
    by_engine_RB = quants.quantize(weight_RI, Type.Q8_0)
    monkeypatch.setattr(quants, "_ggml", lambda: None)
    np.testing.assert_array_equal(quants.quantize(weight_RI, Type.Q8_0), by_engine_RB)
    assert not quants.can_quantize(Type.Q4_K)
    with pytest.raises(TrainingFailedError, match="set --export-type Q8_0"):
        quants.quantize(weight_RI, Type.Q4_K)
