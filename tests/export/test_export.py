"""Adapter and merged file served by llama.cpp, and the choice of types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

import tiny
from expertune.config import Config
from expertune.errors import TrainingFailedError
from expertune.export.agreement import CheckedFile, FileAgreement
from expertune.export.merged import MergedModel, MergeTarget, merge, merged_bytes, write_merged
from expertune.export.quant_types import TOLERANT, TypeChoice, WeightUpdate, choose, ladder_of, largest, measure
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_adapter
from expertune.model.attention import Segment
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, Tunable, load
from expertune.predict.score import Pass
from llama import Served

CONFIG = Config(rank=4, alpha=8.0)
NAME = "blk.0.ffn_up.weight"


def with_random_adapter(path: Path, size: float = 0.05) -> tuple[GGUFFile, Tunable]:
    """Load a base with a random adapter that changes its answers."""
    file = GGUFFile(path)
    tunable = load(file, CONFIG, Placement(torch.device("cpu"), torch.float32, True, 1))
    draw = torch.Generator().manual_seed(1)
    tunable.lora.values_P.add_(size * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()
    return file, tunable


def ours(tunable: Tunable, tokens: list[int]) -> np.ndarray:
    pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
    with torch.no_grad():
        hidden_ND = tunable.decoder.hidden(pack, torch.tensor([len(tokens) - 1]))
        return torch.log_softmax(tunable.decoder.logits(hidden_ND), -1)[0].numpy()


def tokens_of(tunable: Tunable, count: int = 40) -> list[int]:
    return [int(token) for token in np.random.default_rng(2).integers(5, tunable.model_config.vocabulary, count)]


def update_of(tunable: Tunable) -> WeightUpdate:
    return WeightUpdate(tunable.lora.pairs(), tunable.lora.scale)


def target_of(folder: Path, file: GGUFFile, tunable: Tunable) -> MergeTarget:
    return MergeTarget(folder / "merged.gguf", file, update_of(tunable), {"general.name": "merged"}, 1)


def test_adapter_and_merged_file_served_by_llama_cpp_give_our_logits(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base.gguf", qtype="F32")
    file, tunable = with_random_adapter(base)
    tokens, vocabulary = tokens_of(tunable), tunable.model_config.vocabulary
    plain_V = Served(base).log_probabilities(tokens, vocabulary)
    expected_V = ours(tunable, tokens)
    assert np.abs(plain_V - expected_V).max() > 0.1  # the adapter matters
    lora = tunable.lora
    write_adapter(tmp_path / "adapter.gguf", architecture="llama", alpha=lora.alpha, tensors=lora.pairs(), metadata={})
    with_adapter_V = Served(base, adapter=tmp_path / "adapter.gguf").log_probabilities(tokens, vocabulary)
    assert np.abs(with_adapter_V - expected_V).max() < 1e-4
    update = update_of(tunable)
    choices = choose(file, update, wanted="auto", keep=0.9, threads=1)
    write_merged(target_of(tmp_path, file, tunable), choices)
    merged_V = Served(tmp_path / "merged.gguf").log_probabilities(tokens, vocabulary)
    assert np.abs(merged_V - expected_V).max() < 1e-4


def test_untouched_tensors_and_the_tokenizer_are_kept_byte_for_byte(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base.gguf", qtype="Q4_K")
    file, tunable = with_random_adapter(base)
    update = update_of(tunable)
    choices = choose(file, update, wanted="Q8_0", keep=0.9, threads=1)
    write_merged(target_of(tmp_path, file, tunable), choices)
    with GGUFFile(tmp_path / "merged.gguf") as merged:
        touched = {choice.name for choice in choices}
        assert merged.tensors.keys() == file.tensors.keys()
        for name in file.tensors.keys() - touched:
            assert merged.blocks(name).tobytes() == file.blocks(name).tobytes()
        assert {merged.tensors[name].type for name in touched} == {Type.Q8_0}
        for key, field in file.fields.items():
            if key not in {"general.name", "general.file_type"}:
                assert merged.fields[key].raw == field.raw, key
        assert merged.metadata("general.name") == "merged"


def test_a_small_change_is_lost_in_the_bases_own_type_and_kept_in_a_larger_one(tmp_path: Path) -> None:
    file, tunable = with_random_adapter(tiny.make(tmp_path / "base.gguf", qtype="Q4_K"), size=0.002)
    update = update_of(tunable)
    share = {kind: measure(file, update, NAME, kind, threads=1).kept for kind in (Type.Q4_K, Type.Q6_K, Type.Q8_0)}
    assert share[Type.Q4_K] < 0.5 < 0.9 < share[Type.Q8_0] < 1.1
    chosen = {choice.name: choice for choice in choose(file, update, wanted="auto", keep=0.9, threads=1)}
    assert chosen[NAME].type != Type.Q4_K
    assert chosen[NAME].kept >= 0.9


def test_a_large_change_stays_in_the_bases_type(tmp_path: Path) -> None:
    file, tunable = with_random_adapter(tiny.make(tmp_path / "base.gguf", qtype="Q4_K"), size=2.0)
    assert {choice.type for choice in choose(file, update_of(tunable), wanted="auto", keep=0.9, threads=1)} == {
        Type.Q4_K
    }


def test_the_ladder_keeps_to_types_that_fit_the_rows(tmp_path: Path) -> None:
    with GGUFFile(tiny.make(tmp_path / "narrow.gguf", qtype="Q8_0", width=64)) as narrow:
        assert ladder_of(narrow, NAME) == (Type.Q8_0,)
    with GGUFFile(tiny.make(tmp_path / "wide.gguf", qtype="Q4_K")) as wide:
        assert ladder_of(wide, NAME) == (Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_0)
    with GGUFFile(tiny.make(tmp_path / "narrow41.gguf", qtype="Q4_1", width=64)) as narrow:
        assert ladder_of(narrow, NAME) == (Type.Q4_1, Type.Q5_0, Type.Q8_0)
    with GGUFFile(tiny.make(tmp_path / "half.gguf", qtype="F16")) as half:
        assert ladder_of(half, NAME) == (Type.F16, Type.F32)


def test_the_largest_type_for_every_tensor(tmp_path: Path) -> None:
    file, tunable = with_random_adapter(tiny.make(tmp_path / "base.gguf", qtype="Q4_K"), size=2.0)
    update = update_of(tunable)
    found = largest(file, update, choose(file, update, wanted="auto", keep=0.9, threads=1), threads=1)
    assert found is not None and {choice.type for choice in found} == {Type.Q8_0}
    assert largest(file, update, found, threads=1) is None


def test_a_small_update_gets_larger_types_within_the_size_of_the_file(tmp_path: Path) -> None:
    """Rounding W itself to another grid is an error several times ΔW: the file's size is used up to lower it."""
    file, tunable = with_random_adapter(tiny.make(tmp_path / "base.gguf", qtype="Q4_1", width=96), size=0.002)
    update = update_of(tunable)
    choices = choose(file, update, wanted="auto", keep=0.9, threads=1)
    kinds = {choice.type for choice in choices}
    assert Type.Q8_0 in kinds and len(kinds) > 1
    write_merged(target_of(tmp_path, file, tunable), choices)
    grown = (tmp_path / "merged.gguf").stat().st_size / file.path.stat().st_size
    assert 1.1 < grown <= 1.251  # some bytes of metadata
    assert all(choice.kept >= 0.9 for choice in choices)
    assert not any(part in choice.name for part in TOLERANT for choice in choices if choice.type == Type.Q8_0)


def checked(*, passed: bool) -> CheckedFile:
    return CheckedFile(Pass((), 1.0, 1.0, 10), Pass((), 1.0, 1.0, 10), FileAgreement(1.0, 0.0, 10, passed))


def merged_with(tmp_path: Path, passes: list[bool], config: Config = CONFIG) -> tuple[MergedModel, list[set[Type]]]:
    """The merged file, and the types of each file that was written."""
    file, tunable = with_random_adapter(tiny.make(tmp_path / "base.gguf", qtype="Q4_K"), size=2.0)
    target, written = target_of(tmp_path, file, tunable), list[set[Type]]()

    def write(choices: Sequence[TypeChoice]) -> None:
        progress: list[tuple[int, int]] = []
        write_merged(target, choices, progress=lambda done, total: progress.append((done, total)))
        assert progress[-1] == (merged_bytes(file, choices),) * 2
        written.append({choice.type for choice in choices})

    merged = merge(target, config, write, lambda attempt: checked(passed=passes[attempt - 1]))
    with GGUFFile(merged.path) as found:
        assert all(found.tensors[choice.name].type == choice.type for choice in merged.choices)
    return merged, written


def test_a_file_that_passes_is_written_once(tmp_path: Path) -> None:
    merged, written = merged_with(tmp_path, [True])
    assert (written, len(merged.rounds)) == ([{Type.Q4_K}], 1)


def test_a_file_that_does_not_agree_is_written_again_with_larger_types(tmp_path: Path) -> None:
    merged, written = merged_with(tmp_path, [False, True])
    assert written == [{Type.Q4_K}, {Type.Q8_0}]
    assert merged.checked.agreement.passed and [each.passed for each in merged.rounds] == [False, True]


def test_where_larger_types_do_not_help_the_smaller_file_stays(tmp_path: Path) -> None:
    merged, written = merged_with(tmp_path, [False, False])
    assert written == [{Type.Q4_K}, {Type.Q8_0}, {Type.Q4_K}]
    assert not merged.checked.agreement.passed and len(merged.rounds) == 2


def test_a_forced_type_is_taken_as_it_is(tmp_path: Path) -> None:
    _, written = merged_with(tmp_path, [False], Config(rank=4, alpha=8.0, export_type="Q6_K"))
    assert written == [{Type.Q6_K}]


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    base = GGUFFile(tiny.make(tmp_path / "base.gguf", qtype="F32"))
    fresh = load(base, CONFIG, Placement(torch.device("cpu"), torch.float32, True, 1))
    target = target_of(tmp_path, base, fresh)
    with pytest.raises(TrainingFailedError, match="changed nothing"):
        merge(target, CONFIG, lambda choices: write_merged(target, choices), lambda attempt: checked(passed=True))
    assert not (tmp_path / "merged.gguf").exists()
