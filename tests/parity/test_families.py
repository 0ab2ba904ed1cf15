"""Every family against llama.cpp: logits, gradients, adapter and merged file; and every quantisation as a base.

In float32 both must compute alike: 1e-4 is demanded, about 1e-5 is found. Families with GELU keep a difference where
an activation lies on the edge between two entries of llama.cpp's table (tests/family_proof.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import families
import family_proof as proof
from expertune.model.arch import supported
from expertune.train.encode import Candidates

# in the fast tier: a plain decoder; windows, more norms and GELU; linear attention with experts; convolutions
FAST = ("llama", "gemma3", "qwen35moe", "lfm2")


def in_tiers(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


EVERY = in_tiers(families.FAMILIES)
TABLE = 5e-3


def bound(name: str) -> float:
    family = families.FAMILIES[name]
    return TABLE if family.gelu else family.noise


def test_every_architecture_that_can_be_tuned_is_proven_here() -> None:
    assert {family.architecture for family in families.FAMILIES.values()} == set(supported())


@pytest.mark.parametrize("qtype", ["F32", "Q4_0"])
@pytest.mark.parametrize("name", EVERY)
def test_logits_equal_llama_cpp(tmp_path: Path, name: str, qtype: str) -> None:
    assert proof.logits(tmp_path, name, qtype).same < bound(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_logits_on_a_base_in_blocks_of_256(tmp_path: Path, name: str) -> None:
    assert proof.logits(tmp_path, name, "Q4_K").same < bound(name)


@pytest.mark.slow
@pytest.mark.parametrize("qtype", ["F16", "Q8_0", "Q2_K", "Q5_K", "IQ4_NL", "IQ3_S", "MXFP4"])
def test_logits_of_experts_on_other_quantisations(tmp_path: Path, qtype: str) -> None:
    """Every type is read in blocks of rows, experts too; test_base_adapter_and_merged_file… has all types."""
    assert proof.logits(tmp_path, "gpt-oss", qtype).same < bound("gpt-oss")


@pytest.mark.parametrize("name", in_tiers(name for name, family in families.FAMILIES.items() if family.gelu))
def test_gelu_differs_by_llama_cpps_table_only(tmp_path: Path, name: str) -> None:
    path, lengths = families.make(tmp_path / "base.gguf", families.FAMILIES[name]), (3, 5, 20, 30, 40)
    noise = families.FAMILIES[name].noise
    served = proof.Served(path)
    exact = proof.open_model(path)
    with proof.llama_cpp_gelu():
        by_table = proof.open_model(path)
        assert min(proof.difference(by_table, served, (length,)) for length in lengths) < noise
    assert min(proof.difference(exact, served, (length,)) for length in lengths) > 4 * noise


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_gradients_equal_finite_differences(tmp_path: Path, name: str) -> None:
    path, rows = families.make(tmp_path / "base.gguf", families.FAMILIES[name]), proof.rows()
    tunable = proof.open_model(path, adapter_size=0.05)
    found = list(proof.slopes(tunable, rows))
    assert max(abs(each.computed) for each in found) > 0.5
    for each in found:
        assert each.computed == pytest.approx(each.measured, rel=0.02, abs=4e-3), each
    gradients = []
    for recompute in (False, True):
        tunable.decoder.recompute = recompute
        gradients.append(proof.gradient(tunable, rows))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_shared_beginning_and_packed_rows_change_no_gradient(tmp_path: Path, name: str) -> None:
    path = families.make(tmp_path / "base.gguf", families.FAMILIES[name])
    tunable, rows = proof.open_model(path, adapter_size=0.05), proof.rows()
    together_P = proof.gradient(tunable, rows)
    alone_P = sum(proof.gradient(tunable, [row]) for row in rows)
    assert float((together_P - alone_P).abs().max()) < 1e-4 * float(together_P.abs().max())


@pytest.mark.parametrize("name", EVERY)
def test_candidates_behind_one_prompt_are_scored_as_each_alone(tmp_path: Path, name: str) -> None:
    path, rows = families.make(tmp_path / "base.gguf", families.FAMILIES[name]), proof.rows()
    tunable = proof.open_model(path, adapter_size=0.05)
    candidates = Candidates((7, 8), ((20,), (21, 22, 23)))
    together, alone = proof.scores(tunable, rows, candidates), proof.scores_alone(tunable, rows, candidates)
    assert together == pytest.approx(alone, abs=10 * families.FAMILIES[name].noise)


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_is_near(tmp_path: Path, name: str) -> None:
    path, rows = families.make(tmp_path / "base.gguf", families.FAMILIES[name]), proof.rows()
    full, half = (proof.open_model(path, adapter_size=0.05, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    with torch.no_grad():
        assert float(proof.loss(half, rows)) == pytest.approx(float(proof.loss(full, rows)), rel=0.05)
    assert proof.gradient(half, rows).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_adapter_and_merged_file_are_served_alike(tmp_path: Path, name: str) -> None:
    found = proof.exported(tmp_path, name)
    assert found.moved > 0.1
    assert max(found.adapter, found.merged) < bound(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("gemma2", "Q4_0"),
        ("gemma4 moe", "Q4_K"),
        ("phi3", "Q4_K"),
        ("granitemoe", "Q4_0"),
        ("granitemoe", "MXFP4"),
        ("gpt-oss", "MXFP4"),
        ("qwen35", "Q4_K"),
        ("lfm2", "Q4_0"),
    ],
)
def test_adapter_and_merged_file_of_a_quantised_base(tmp_path: Path, name: str, qtype: str) -> None:
    found = proof.exported(tmp_path, name, qtype)  # what rounding costs is no figure of random weights: the gate's
    assert max(found.adapter, found.written) < bound(name)


@pytest.mark.slow
@pytest.mark.parametrize("qtype", proof.TYPES)
def test_base_adapter_and_merged_file_of_every_quantisation(tmp_path: Path, qtype: str) -> None:
    """With the adapter on weights of a type, the weights are read as llama.cpp reads them.

    Types that take long to quantise are in one of the two blocks.
    """
    types = {"blk.1.": "Q8_0", "token_embd": "Q8_0"} if qtype.startswith(("IQ1", "IQ2")) else {}
    found = proof.exported(tmp_path, "llama", qtype, types)
    if not qtype.startswith("IQ1"):
        path = tmp_path / "base.gguf"
        served = proof.difference(proof.open_model(path, cached=False), proof.Served(path))
        assert served < {"F32": bound("llama"), "F16": 0.02, "BF16": 0.1}.get(qtype, 0.5)
    assert max(found.adapter, found.written) < bound("llama")
    assert found.merged < found.moved
