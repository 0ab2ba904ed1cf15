"""The noise of two readers of one file, and the gate that is measured by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from expertune.config import Config
from expertune.export.agreement import FileAgreement, ValidationTruth, check
from expertune.export.merged import MergeTarget, write_merged
from expertune.export.quant_types import WeightUpdate, choose
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, load
from expertune.predict.score import Rated
from expertune.ratings.scale import make_scale
from expertune.train.encode import Candidates, Row
from expertune.train.evaluate import evaluate

CONFIG = Config()
SCALE = make_scale({"a": 0, "b": 1, "c": 2})
LABELS = [at % 3 for at in range(120)]
TRUTH = ValidationTruth(LABELS, list(range(120)))


def rated(share_NK: np.ndarray) -> tuple[Rated, ...]:
    return tuple(Rated.of(str(at), shares, SCALE) for at, shares in enumerate(share_NK.tolist()))


def adapter(seed: int = 0) -> np.ndarray:
    """Logits of a rater that knows something, with ties among its records. Shape: (120, 3)."""
    return np.random.default_rng(seed).normal(0.0, 1.0, (120, 3)) + 1.5 * np.eye(3)[LABELS]


def shares(logit_NK: np.ndarray, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    """Probabilities of the logits, read with noise."""
    logit_NK = logit_NK + np.random.default_rng(seed).normal(0.0, noise, logit_NK.shape)
    weight_NK = np.exp(logit_NK - logit_NK.max(axis=1, keepdims=True))
    return weight_NK / weight_NK.sum(axis=1, keepdims=True)


def checked(file_NK: np.ndarray, noise: float, config: Config = CONFIG) -> FileAgreement:
    """Check a file with these logits; llama.cpp reads it with noise."""
    return check(rated(shares(adapter())), rated(shares(file_NK, noise)), rated(shares(file_NK)), TRUTH, config)


def test_the_noise_by_hand() -> None:
    first, second = np.array([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]]), np.array([[0.5, 0.5], [0.46, 0.54], [0.2, 0.8]])
    scale = make_scale({"a": 0, "b": 1})
    ours, theirs = (
        tuple(Rated.of(str(at), line, scale) for at, line in enumerate(each.tolist())) for each in (second, first)
    )
    found = check(ours, theirs, ours, ValidationTruth([0, 1, 1], [0, 1, 2]), CONFIG)
    assert found.noise is not None
    assert found.noise.mean == pytest.approx(0.14 / 3) and found.noise.p95 == pytest.approx(0.094)
    assert found.noise.p99 == pytest.approx(0.0988) and found.noise.margin == 2 * found.noise.p99
    assert found.noise.labels == pytest.approx(1 / 3)  # a tie goes to the first label
    assert found.noise.log_loss.value == pytest.approx((np.log(0.5 / 0.6) + np.log(0.54 / 0.5)) / 3)
    assert found.clear_rows == 1  # a margin of 0.6


def test_a_file_that_equals_its_adapter_passes_however_noisy_its_reader_is() -> None:
    for noise in (0.0, 0.02, 0.1, 0.2):
        found = checked(adapter(), noise)
        assert found.passed and found.labels >= 0.99 and found.clear_rows is not None
        assert found.noise is not None and (found.noise.mean > 0) == (noise > 0)
    assert found.clear_rows < 110 and found.noise.labels > 0  # ties change places


def test_a_file_without_the_update_fails_also_on_few_records() -> None:
    lost = adapter() - 1.5 * np.eye(3)[LABELS]
    found = checked(lost, 0.1)
    assert not found.passed
    assert found.log_loss is not None and found.log_loss_limit is not None and found.log_loss.value is not None
    assert found.log_loss.value > found.log_loss_limit
    few = slice(0, 12)
    by_adapter, file = shares(adapter())[few], shares(lost)[few]
    truth = ValidationTruth(LABELS[few], list(range(12)))
    assert not check(rated(by_adapter), rated(file), rated(file), truth, CONFIG).passed


def test_labels_count_where_the_margin_exceeds_the_noise() -> None:
    """Eight records of 120 with a clear label get another one, and the mean log-loss hides it."""
    changed = adapter()
    clear = np.argsort(np.ptp(changed, axis=1))[-8:]
    changed[clear] = -changed[clear]
    truth = ValidationTruth([int(row.argmax()) if at in clear else 0 for at, row in enumerate(changed)], TRUTH.groups)
    by_adapter, file = rated(shares(adapter())), shares(changed)
    found = check(by_adapter, rated(file), rated(file), truth, CONFIG)
    assert found.log_loss is not None and found.log_loss.value is not None and found.log_loss.value < 0  # "better"
    assert not found.passed and found.labels == pytest.approx(112 / 120)
    loose = Config(min_label_agreement=0.9)
    assert check(by_adapter, rated(file), rated(file), truth, loose).passed


def test_two_readers_that_contradict_each_other_are_no_noise() -> None:
    found = check(rated(shares(adapter())), rated(shares(adapter(seed=9))), rated(shares(adapter())), TRUTH, CONFIG)
    assert found.noise is not None and found.noise.mean > 0.1 and not found.passed


def rows() -> list[Row]:
    draw = np.random.default_rng(5)
    prompts = [tuple(int(token) for token in draw.integers(200, 400, 14)) for _ in range(120)]
    return [Row(str(at), LABELS[at], prompt, (30, 41), (1.0, 1.0)) for at, prompt in enumerate(prompts)]


@pytest.mark.parametrize(("kind", "passes"), [("Q8_0", True), ("Q4_K", False)])
def test_an_update_that_its_types_cannot_hold_fails_the_gate(tmp_path: Path, kind: str, passes: bool) -> None:
    """The adapter and the merged file by our decoder: an update far below Q4_K's steps is lost in it."""
    candidates = Candidates((30,), ((41,), (42,), (43,)))
    base = GGUFFile(tiny.make(tmp_path / "base.gguf", qtype="Q4_K"))
    cpu = Placement(torch.device("cpu"), torch.float32, True, 1)
    config = Config(rank=4, alpha=8.0)
    tunable = load(base, config, cpu)
    draw = torch.Generator().manual_seed(1)
    tunable.lora.values_P.add_(0.01 * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()
    by_adapter = evaluate(tunable, rows(), candidates, batch_size=8).log_probabilities_RK.exp().numpy()
    update = WeightUpdate(tunable.lora.pairs(), tunable.lora.scale)
    target = MergeTarget(tmp_path / "merged.gguf", base, update, {}, 1)
    write_merged(target, choose(base, update, wanted=kind, keep=0.9, threads=1))
    with GGUFFile(target.path) as file:
        by_file = evaluate(load(file, config, cpu), rows(), candidates, batch_size=8).log_probabilities_RK.exp().numpy()
    truth = ValidationTruth(by_adapter.argmax(1).tolist(), TRUTH.groups)  # the expert says what the adapter has learnt
    found = check(rated(by_adapter), rated(by_file), rated(by_file), truth, config)
    assert found.passed == passes, found
