"""Rows filled up to one length, the form of CUDA, give what packs of segments give; checked on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_gradients import rows_of

import families
from expertune.config import Config
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, Tunable, load
from expertune.model.sdpa import suits_rows
from expertune.train import loss
from expertune.train.batches import training_batch
from expertune.train.class_balance import Teacher, balance
from expertune.train.cuda_graph import GraphedStep
from expertune.train.encode import Candidates, Row
from expertune.train.evaluate import evaluate
from expertune.train.loop import Trainer, TrainingData
from expertune.train.loss import weighted_loss
from expertune.train.rows import rounded_length, training_rows

LABELS = Candidates((7,), ((20,), (21,), (22,)))
LONGER = Candidates((7, 9), ((20, 4), (21, 4, 30), (22,)))
UNSUITED = {
    "gemma2", "gemma4 small", "gemma4 moe", "mixtral", "qwen3moe", "granitemoe", "gpt-oss", "lfm2",
    "qwen35", "qwen35moe", "qwen3next",
}  # fmt: skip


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to float32 rounding: sums are taken in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def tuned(folder: Path, family: str) -> Tunable:
    path = families.make(folder / "tiny.gguf", families.FAMILIES[family])
    placement = Placement(torch.device("cpu"), torch.float32, True, 1)
    tunable = load(GGUFFile(path), Config(rank=4, alpha=8.0), placement)
    draw = torch.Generator().manual_seed(3)
    tunable.lora.values_P.add_(0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()
    return tunable


def labelled() -> list[Row]:
    """Rows whose answers begin with the opening and a label; the longest is longer than the families' window."""
    return [
        replace(row, answer=(*LABELS.shared, *LABELS.own[row.label], *row.answer), weights=(1.0, 5.0, *row.weights))
        for row in rows_of()
    ]


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_loss_and_gradient_of_rows_equal_those_of_segments(tmp_path: Path, family: str) -> None:
    tunable, rows = tuned(tmp_path, family), labelled()
    assert suits_rows(tunable.model_config) == (family not in UNSUITED)
    if family in UNSUITED:
        return
    decisions = balance(Config(), LABELS, rows, Teacher({rows[0].id: (0.2, 0.3, 0.5)})).decisions
    packed = training_batch(rows, (1.0, 2.0, 0.5), decisions)
    hidden_ND = tunable.decoder.hidden(packed.pack, packed.places_N)
    total = packed.weight
    expected = weighted_loss(tunable.decoder, hidden_ND, packed.targets_N, packed.weights_N, packed.decisions) / total
    expected.backward()
    gradient_P = tunable.lora.gradients_P.clone()
    tunable.lora.gradients_P.zero_()
    found = GraphedStep(tunable).backward(training_rows(rows, (1.0, 2.0, 0.5), decisions), total)
    assert_equal(found, expected.detach())
    assert_equal(tunable.lora.gradients_P, gradient_P)
    assert gradient_P.abs().max() > 1e-3


def test_decisions_reach_their_places_in_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tunable, rows = tuned(tmp_path, "llama"), labelled()
    batch = training_rows(rows, (1.0, 1.0, 1.0), balance(Config(), LABELS, rows).decisions)
    step = GraphedStep(tunable)
    losses: list[torch.Tensor] = []
    for places in (1000, 5):
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", places * tunable.decoder.head.vocabulary)
        losses.append(step.backward(batch, 1.0))
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("labels", [LABELS, LONGER], ids=["one token", "several tokens"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_an_evaluation_of_rows_equals_that_of_segments(tmp_path: Path, family: str, labels: Candidates) -> None:
    tunable, rows = tuned(tmp_path, family), labelled()
    expected = evaluate(tunable, rows, labels, batch_size=2)
    tunable.decoder.fills_rows = True
    found = evaluate(tunable, rows, labels, batch_size=2)
    assert_equal(found.log_probabilities_RK, expected.log_probabilities_RK)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.slow
def test_a_training_of_rows_learns_as_one_of_segments(tmp_path: Path) -> None:
    losses = []
    for fills in (False, True):
        tunable, rows = tuned(tmp_path, "llama"), labelled()
        tunable.decoder.fills_rows = fills
        config = Config(rank=4, alpha=8.0, batch_size=2, epochs=4.0, learning_rate=1e-2)
        trainer = Trainer(tunable, TrainingData(rows, rows, LABELS), config)
        losses.append([trainer.one_step().loss for _ in range(trainer.steps)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1][-1] < 0.8 * losses[1][0]


@pytest.mark.parametrize(("longest", "rounded"), [(1, 32), (32, 32), (33, 64), (511, 512), (513, 576), (1025, 1152)])
def test_lengths_are_rounded_up(longest: int, rounded: int) -> None:
    assert rounded_length(longest) == rounded
