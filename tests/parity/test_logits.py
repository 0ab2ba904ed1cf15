"""Our logits against llama.cpp's on the same file.

In F32 both compute alike. With quantised weights llama.cpp also rounds what goes INTO each product: to F16 for F16
weights, to 8-bit blocks of 32 (Q8_0) for Q8_0, of 256 (Q8_K) for K-quants (ggml-cpu, type_traits_cpu.vec_dot_type).
Training does not round; so the bound is shown instead of assumed: with the same rounding put into our decoder the
difference falls to float32 noise (about 2e-6), but for the prompts in which an activation lies on the edge between
two levels and rounds the other way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

import tiny
from expertune.config import Config
from expertune.gguf import quants
from expertune.gguf.read import GGUFFile
from expertune.model.attention import Segment
from expertune.model.decoder import Decoder
from expertune.model.forward_context import Pack
from expertune.model.linear import FusedLinear
from expertune.model.load import Placement, Tunable, load
from llama import Served


def open_model(path: Path, *, cached: bool = False) -> tuple[GGUFFile, Tunable]:
    file = GGUFFile(path)
    return file, load(file, Config(), Placement(torch.device("cpu"), torch.float32, cached, 1))


def our_log_probabilities(tunable: Tunable, tokens: list[int]) -> np.ndarray:
    pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
    with torch.no_grad():
        hidden_ND = tunable.decoder.hidden(pack, torch.tensor([len(tokens) - 1]))
        return torch.log_softmax(tunable.decoder.logits(hidden_ND), -1)[0].numpy()


def differences(path: Path, lengths: tuple[int, ...] = (120,), *, cached: bool = False) -> list[float]:
    """The largest difference of log-probability after a random prompt of each length."""
    file, tunable = open_model(path, cached=cached)
    served, draw = Served(path), np.random.default_rng(1)
    found = []
    for length in lengths:
        tokens = [int(token) for token in draw.integers(5, tunable.model_config.vocabulary, length)]
        theirs_V = served.log_probabilities(tokens, tunable.model_config.vocabulary)
        found.append(float(np.nanmax(np.abs(theirs_V - our_log_probabilities(tunable, tokens)))))
    file.close()
    return found


def round_q8_k(x_TI: np.ndarray) -> np.ndarray:
    """ggml's quantize_row_q8_K_ref: blocks of 256, the largest magnitude becomes -127."""
    blocks_NB = x_TI.reshape(-1, 256)
    largest_N1 = np.take_along_axis(blocks_NB, np.abs(blocks_NB).argmax(1)[:, None], 1)
    scale_N1 = np.divide(np.float32(-127), largest_N1, out=np.zeros_like(largest_N1), where=largest_N1 != 0)
    levels_NB = np.minimum(np.rint(blocks_NB * scale_N1), 127)
    return np.divide(levels_NB, scale_N1, out=np.zeros_like(blocks_NB), where=scale_N1 != 0).reshape(x_TI.shape)


def rounded_input(x_TI: torch.Tensor, kind: Type) -> torch.Tensor:
    x_array = x_TI.numpy()
    if kind == Type.Q8_0:
        return torch.from_numpy(quants.dequantize(quants.quantize(x_array, Type.Q8_0), Type.Q8_0))
    return torch.from_numpy(round_q8_k(x_array))


@pytest.mark.parametrize(
    "variant",
    [{}, {"tied": True}, {"rope_freqs": True}, {"vocab": "spm"}, {"heads": 8, "kv": 8}],
    ids=lambda variant: ",".join(variant) or "plain",
)
@pytest.mark.parametrize("cached", [False, True], ids=["packed", "cached"])
def test_f32_logits_equal_llama_cpp(tmp_path: Path, variant: dict, cached: bool) -> None:
    tiny.make(tmp_path / "tiny.gguf", qtype="F32", **variant)
    assert max(differences(tmp_path / "tiny.gguf", (3, 120), cached=cached)) < 1e-4


SCALINGS = {
    "linear": {"type": "linear", "factor": 4.0},
    "yarn": {"type": "yarn", "factor": 4.0, "original_context_length": 128},
    "yarn with its own attention factor": {
        "type": "yarn", "factor": 2.0, "original_context_length": 256, "attn_factor": 1.2},
}  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_scaling_equals_llama_cpp(tmp_path: Path, scaling: str) -> None:
    keys = {f"llama.rope.scaling.{key}": value for key, value in SCALINGS[scaling].items()}
    tiny.make(tmp_path / "tiny.gguf", qtype="F32", extra=keys)
    assert max(differences(tmp_path / "tiny.gguf", (3, 200))) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("qtype", ["Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_quantised_logits_differ_by_llama_cpps_activation_rounding_only(
    tmp_path: Path, qtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lengths = tmp_path / "tiny.gguf", (1, 2, 3, 4, 6, 8, 12, 16, 24)
    tiny.make(path, qtype=qtype, width=256, ffn=512)
    unrounded = differences(path, lengths)
    kind, forward, last_norm = Type[qtype], FusedLinear.forward, Decoder.last_norm
    monkeypatch.setattr(FusedLinear, "forward", lambda self, x_TI: forward(self, rounded_input(x_TI, kind)))
    monkeypatch.setattr(Decoder, "last_norm", lambda self, x_ND: rounded_input(last_norm(self, x_ND), kind))
    rounded = differences(path, lengths)
    assert 0.01 < np.median(unrounded) < max(unrounded) < 0.6
    assert np.median(rounded) < 1e-4  # a few prompts hold an activation on the edge between two levels


@pytest.mark.slow
@pytest.mark.parametrize("qtype", ["F16", "BF16"])
def test_half_precision_logits_stay_within_its_rounding(tmp_path: Path, qtype: str) -> None:
    """llama.cpp multiplies in half precision here; 8 (BF16) or 11 (F16) bits of each activation are kept."""
    path = tmp_path / "tiny.gguf"
    tiny.make(path, qtype=qtype, width=256, ffn=512)
    assert max(differences(path, (1, 4, 16, 64))) < {"F16": 0.01, "BF16": 0.08}[qtype]
