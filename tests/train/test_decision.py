"""The loss among the labels where they part: its places, targets and class prior."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from expertune.config import Config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, Tunable, load
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import answer_text, load_scale
from expertune.ratings.schema import Example
from expertune.ratings.unlabelled import MOST_PER_RATED
from expertune.train.batches import epoch_order, training_batch
from expertune.train.class_balance import Teacher, balance
from expertune.train.encode import Candidates, Row, candidates, encode, unrated_row
from expertune.train.evaluate import evaluate
from expertune.train.loop import Trainer, TrainingData
from expertune.train.loss import log_probabilities, weighted_loss

BASE = Path(__file__).parents[2] / "examples/base.gguf"
THREE = Candidates((30, 31), ((41, 42, 7), (43, 7), (41, 45, 7)))


@pytest.fixture(scope="module")
def tunable(tmp_path_factory: pytest.TempPathFactory) -> Tunable:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    tiny.make(path, qtype="Q8_0")
    return load(GGUFFile(path), Config(rank=4, alpha=8.0), Placement(torch.device("cpu"), torch.float32, True, 1))


def row(name: str, label: int, *, prompt: tuple[int, ...] = (5, 6, 7), ask: Candidates = THREE) -> Row:
    answer = (*ask.shared, *ask.own[label], 9)
    return Row(name, label, prompt, answer, (1.0,) * len(answer), (len(ask.shared) + 1, len(answer) - 1))


def test_a_label_is_decided_wherever_another_one_goes_another_way() -> None:
    assert THREE.decisions(0) == (2, 3)  # 41 or 43, then 42 or 45
    assert THREE.decisions(1) == (2,)
    assert THREE.rivals(0, 0) == {41: (0, 2), 43: (1,)}
    assert THREE.rivals(0, 1) == {42: (0,), 45: (2,)}
    assert THREE.rivals(1, 1) == {7: (1,)}


@pytest.mark.parametrize("labels", [("Match", "Does Not Match", "Unknown"), ("Urgency", "Urgent", "Less urgent")])
def test_labels_part_where_one_answer_goes_another_way(labels: tuple[str, ...]) -> None:
    scale = load_scale({label: value for value, label in enumerate(labels)}, None)
    with LlamaCppEngine(BASE, context=512, threads=1) as engine:
        messages = chat_messages("Cough and fever", scale, "t")
        examples = [
            Example(label, "train", messages, answer_text(label, "because"), label, value)
            for value, label in enumerate(labels)
        ]
        rows = encode(engine, examples, scale, rationale_weight=0.2)
        answers = candidates(engine, examples[0], scale)
    found = balance(Config(), answers, rows).decisions
    for own in rows:
        rivals = [other for other in rows if other is not own]
        # by definition: where this answer's beginning is another's too, and its next token is not
        expected = {
            place
            for place in range(len(own.answer))
            if any(
                other.answer[:place] == own.answer[:place] and other.answer[place] != own.answer[place]
                for other in rivals
            )
        }
        assert {each.place for each in found[own.id]} == expected == set(answers.decisions(own.label))
        assert set(own.weights) == {1.0, 0.2}
        reason = slice(*own.rationale)
        assert set(own.weights[reason]) == {0.2} and own.weights.count(0.2) == reason.stop - reason.start


def test_offsets_are_the_log_shares_of_the_labels_at_each_fork() -> None:
    rows = [row(f"r{i}", 0) for i in range(6)] + [row("a", 1)] * 2 + [row("b", 2)] * 2
    first, second = balance(Config(logit_adjustment=0.5), THREE, rows).decisions["r0"]
    assert dict(zip(first.tokens, first.offsets, strict=True)) == pytest.approx({41: 0.0, 43: 0.5 * math.log(2 / 8)})
    assert dict(zip(second.tokens, second.offsets, strict=True)) == pytest.approx({42: 0.0, 45: 0.5 * math.log(2 / 6)})
    plain = balance(Config(class_weight="none"), THREE, rows).decisions["r0"]
    assert all(set(each.offsets) == {0.0} for each in plain)


def test_offsets_take_off_the_weights_by_which_the_teacher_chooses() -> None:
    """With them the likeliest label is the one that the teacher would choose for the same probabilities."""
    rows = [row(f"r{i}", 0) for i in range(6)] + [row("a", 1)] * 2 + [row("b", 2)] * 2
    teacher = Teacher({}, (1.0, 1.5, 3.0))
    first, second = balance(Config(logit_adjustment=0.5), THREE, rows, teacher).decisions["r0"]
    both = (6 * 1.0 + 2 * 3.0) / 8  # the labels of the first token weigh by their rows
    expected = {41: 0.0, 43: 0.5 * math.log(2 / 8) - math.log(1.5 / both)}
    assert dict(zip(first.tokens, first.offsets, strict=True)) == pytest.approx(expected)
    expected = {42: 0.0, 45: 0.5 * math.log(2 / 6) - math.log(3.0)}
    assert dict(zip(second.tokens, second.offsets, strict=True)) == pytest.approx(expected)
    for settings in ({"class_weight": "none"}, {"class_weight": "balanced"}, {"logit_adjustment": 0.0}):
        plain = balance(Config(**settings), THREE, rows, teacher).decisions["r0"]
        assert all(set(each.offsets) == {0.0} for each in plain), settings
    alone = balance(Config(soft_label_weight=0.0), THREE, rows, teacher).decisions["r0"]
    assert alone == balance(Config(soft_label_weight=0.0), THREE, rows).decisions["r0"]


def test_soft_labels_are_shared_out_over_the_forks() -> None:
    soft = {"a": (0.2, 0.5, 0.3)}
    config = Config(decision_weight=10, soft_label_weight=0.5)
    first, second = balance(config, THREE, [row("a", 0), row("b", 1)], Teacher(soft)).decisions["a"]
    assert dict(zip(first.tokens, first.shares, strict=True)) == pytest.approx({41: 0.75, 43: 0.25})
    assert dict(zip(second.tokens, second.shares, strict=True)) == pytest.approx({42: 0.6 / 0.75, 45: 0.15 / 0.75})
    assert (first.weight, second.weight) == pytest.approx((10, 7.5))  # a quarter of the shares parted before
    (only,) = balance(config, THREE, [row("a", 0), row("b", 1)], Teacher(soft)).decisions["b"]
    assert dict(zip(only.tokens, only.shares, strict=True)) == {41: 0.0, 43: 1.0}


def test_a_row_without_a_rating_learns_its_soft_label_alone_with_less_weight() -> None:
    rated, soft = [row("a", 0), row("b", 1), row("c", 1)], {"a": (0.2, 0.5, 0.3), "u": (0.2, 0.5, 0.3)}
    config = Config(decision_weight=10, soft_label_weight=0.5)
    plain = balance(config, THREE, rated, Teacher(soft))
    found = balance(config, THREE, [*rated, unrated_row("u", (5, 6), THREE, 0)], Teacher(soft))
    assert found.weights == plain.weights and all(
        found.decisions[each.id] == plain.decisions[each.id] for each in rated
    )
    first, second = found.decisions["u"]
    assert dict(zip(first.tokens, first.shares, strict=True)) == pytest.approx({41: 0.5, 43: 0.5})
    assert dict(zip(second.tokens, second.shares, strict=True)) == pytest.approx({42: 0.4, 45: 0.6})
    assert (first.weight, second.weight) == pytest.approx((10 / MOST_PER_RATED, 10 / MOST_PER_RATED / 2))
    assert first.offsets == plain.decisions["a"][0].offsets  # its label counts in no class frequency
    with pytest.raises(KeyError):
        balance(config, THREE, [unrated_row("u", (5, 6), THREE)])


def test_a_row_without_a_rating_has_no_weight_but_its_decisions() -> None:
    answers = [unrated_row("u", (5, 6), THREE, label).answer for label in range(3)]
    assert answers == [(30, 31, 41, 42), (30, 31, 43), (30, 31, 41, 45)]  # up to the last token at which labels part
    own = unrated_row("u", (5, 6), THREE, 1)
    found = balance(Config(decision_weight=10), THREE, [row("a", 0), own], Teacher({"u": (0.0, 1.0, 0.0)}))
    batch = training_batch([own], found.weights, found.decisions)
    assert batch.decisions is not None and float(batch.weights_N.sum()) == 0.0
    assert batch.targets_N[batch.decisions.rows_M].tolist() == [43] and batch.weight == 10 / MOST_PER_RATED


def test_rows_without_a_rating_are_spread_evenly_over_the_batches() -> None:
    rated, unrated, size = 30, 90, 8
    for epoch in range(3):
        order = epoch_order(rated, seed=1, epoch=epoch, unrated=unrated)
        assert sorted(order.tolist()) == list(range(rated + unrated))
        shares = [int((order[at : at + size] < rated).sum()) for at in range(0, len(order), size)]
        assert set(shares) <= {1, 2, 3}
    first, second = (epoch_order(rated, seed=1, epoch=epoch, unrated=unrated).tolist() for epoch in (0, 1))
    assert first != second and first == epoch_order(rated, seed=1, epoch=0, unrated=unrated).tolist()
    assert np.array_equal(epoch_order(9, seed=1, epoch=0, unrated=0), epoch_order(9, seed=1, epoch=0))


@pytest.mark.parametrize("at_once", [1 << 24, 2048])
def test_loss_and_gradient_are_those_of_autograd(
    tunable: Tunable, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertune.train.loss.LOGITS_AT_ONCE", at_once)  # the second: a few places at a time
    rows = [row("a", 0), row("b", 1, prompt=(5, 8, 9, 10)), row("c", 2)]
    soft = {"a": (0.6, 0.3, 0.1), "c": (0.2, 0.2, 0.6)}
    found = balance(Config(class_weight="balanced"), THREE, [*rows, rows[0], rows[0]], Teacher(soft))
    batch = training_batch(rows, found.weights, found.decisions)
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N).detach()

    def gradient(loss_of) -> tuple[float, torch.Tensor]:
        own_ND = hidden_ND.clone().requires_grad_()
        loss = loss_of(own_ND)
        loss.backward()
        assert own_ND.grad is not None
        return float(loss.detach()), own_ND.grad

    def plainly(own_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = tunable.decoder.last_norm(own_ND) @ tunable.decoder.head.weight.matrix().t()
        each_N = torch.nn.functional.cross_entropy(logits_NV, batch.targets_N, reduction="none")
        total, start = (each_N * batch.weights_N).sum(), 0
        for each in rows:
            for decision in found.decisions[each.id]:
                among_K = logits_NV[start + decision.place, list(decision.tokens)] + torch.tensor(decision.offsets)
                log_K = torch.log_softmax(among_K, -1)
                total = total - decision.weight * (log_K * torch.tensor(decision.shares)).sum()
            start += len(each.answer)
        return total

    ours, our_slope = gradient(
        lambda own: weighted_loss(tunable.decoder, own, batch.targets_N, batch.weights_N, batch.decisions)
    )
    theirs, their_slope = gradient(plainly)
    assert ours == pytest.approx(theirs, rel=1e-5)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-4, atol=1e-5)
    assert batch.weight == pytest.approx(
        float(batch.weights_N.sum()) + sum(each.weight for own in rows for each in found.decisions[own.id])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strength", "weights", "expected"), [(0.0, (), 0.8), (1.0, (), 0.5), (0.5, (1.0, 4.0), 1 / 3)]
)
def test_what_cannot_be_known_is_rated_by_frequency_or_evenly(
    tunable: Tunable, strength: float, weights: tuple[float, ...], expected: float
) -> None:
    """The prompt says nothing: without adjustment the model learns the labels' shares, with it evenly, and with the
    teacher's weights the odds 4 : 1 to the power of a half, over 4."""
    tunable.lora.restart()
    two = Candidates((30,), ((41, 7), (43, 7)))
    rows = [row(f"r{i}", int(i % 5 == 0), ask=two) for i in range(40)]
    config = Config(
        rank=4,
        alpha=8.0,
        epochs=40,
        batch_size=8,
        learning_rate=1e-2,
        logit_adjustment=strength,
        early_stopping_patience=1000,
    )
    trainer = Trainer(tunable, TrainingData(rows, rows, two, Teacher({}, weights)), config)
    list(trainer.run())
    assert trainer.last_evaluation is not None
    assert float(trainer.last_evaluation.log_probabilities_RK[0, 0].exp()) == pytest.approx(expected, abs=0.1)


def test_an_evaluation_measures_labels_and_rationales_as_single_rows_do(tunable: Tunable) -> None:
    draw = np.random.default_rng(0)
    rows = [row(f"r{i}", i % 3, prompt=(5, *(int(t) for t in draw.integers(50, 400, 3 + i)))) for i in range(7)]
    found = evaluate(tunable, rows, THREE, batch_size=3)

    def log_of(prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
        batch = training_batch([Row("x", 0, prompt, answer, (1.0,) * len(answer))], (1.0,))
        with torch.no_grad():
            return log_probabilities(
                tunable.decoder, tunable.decoder.hidden(batch.pack, batch.places_N), batch.targets_N
            )

    labels, reasons = [], []
    for each in rows:
        scores = torch.stack([log_of(each.prompt, (*THREE.shared, *own))[2:].sum() for own in THREE.own])
        labels.append(float(torch.log_softmax(scores, -1)[each.label]))
        reasons += log_of(each.prompt, each.answer)[slice(*each.rationale)].tolist()
    assert found.label_loss == pytest.approx(-np.mean(labels), rel=1e-4)
    assert found.rationale_loss == pytest.approx(-np.mean(reasons), rel=1e-4)
    silent = [Row(r.id, r.label, r.prompt, r.answer, r.weights) for r in rows]
    assert evaluate(tunable, silent, THREE, batch_size=3).rationale_loss is None
