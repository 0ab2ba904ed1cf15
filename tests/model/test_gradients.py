"""The hand-written backward pass, compared with finite differences and with separate rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from expertune.config import Config
from expertune.files import sha256
from expertune.gguf.read import GGUFFile
from expertune.model import attention
from expertune.model.load import Placement, Tunable, load
from expertune.train.batches import Batch, dev_batch, shared_beginning, training_batch
from expertune.train.encode import Candidates, Row
from expertune.train.loss import log_probabilities, weighted_loss

CPU = torch.device("cpu")


def tunable_of(path: Path, *, recompute: bool = False, cached: bool = True, **settings: object) -> Tunable:
    config = Config(rank=4, alpha=8.0, **settings)  # pyright: ignore[reportArgumentType]
    tunable = load(GGUFFile(path), config, Placement(CPU, torch.float32, cached, 1))
    tunable.decoder.recompute = recompute
    return tunable


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    tiny.make(path, qtype="F32")
    return path


def rows_of(seed: int = 0, *, beginning: int = 9) -> list[Row]:
    draw = np.random.default_rng(seed)
    shared = tuple(int(token) for token in draw.integers(5, 400, beginning))

    def some(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(5, 400, count))

    return [
        Row(
            str(i),
            i % 3,
            (*shared, *some(5 + 4 * i)),
            some(3 + i),
            tuple(float(w) for w in draw.uniform(0.1, 1, 3 + i)),
        )
        for i in range(3)
    ]


def stir(tunable: Tunable, seed: int = 3) -> None:
    """Make B non-zero, so that A has a gradient too."""
    draw = torch.Generator().manual_seed(seed)
    tunable.lora.values_P.add_(0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()


def loss_of(tunable: Tunable, batch: Batch) -> torch.Tensor:
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
    return weighted_loss(tunable.decoder, hidden_ND, batch.targets_N, batch.weights_N)


def gradient(tunable: Tunable, rows: list[Row]) -> torch.Tensor:
    tunable.lora.gradients_P.zero_()
    for_all = training_batch(rows, (1.0, 2.0, 0.5))
    loss_of(tunable, for_all).backward()
    return tunable.lora.gradients_P.clone()


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_gradients_equal_finite_differences(base: Path, recompute: bool) -> None:
    tunable, rows = tunable_of(base, recompute=recompute), rows_of()
    stir(tunable)
    found_P = gradient(tunable, rows)
    batch = training_batch(rows, (1.0, 2.0, 0.5))
    step, draw = 1e-2, np.random.default_rng(0)
    for name in (
        "blk.0.attn_q",
        "blk.0.attn_k",
        "blk.0.attn_v",
        "blk.1.attn_output",
        "blk.0.ffn_gate",
        "blk.1.ffn_up",
        "blk.1.ffn_down",
    ):
        for view in (tunable.lora.a, tunable.lora.b):
            values, slope = view(name, tunable.lora.values_P), view(name, found_P)
            for place in zip(*(draw.integers(0, size, 3) for size in values.shape), strict=True):
                at = tuple(int(index) for index in place)
                ends = []
                for side in (step, -step):
                    values[at] += side
                    tunable.lora.refresh()
                    with torch.no_grad():
                        ends.append(float(loss_of(tunable, batch)))
                    values[at] -= side
                tunable.lora.refresh()
                assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope[at]), rel=0.03, abs=3e-3)


def test_a_shared_beginning_changes_neither_loss_nor_gradient(base: Path) -> None:
    tunable, rows = tunable_of(base), rows_of()
    stir(tunable)
    assert shared_beginning(rows) == 9
    together_P = gradient(tunable, rows)
    alone_P = sum(gradient(tunable, [row]) for row in rows)
    assert shared_beginning(rows[:1]) == 0
    torch.testing.assert_close(together_P, alone_P, rtol=1e-4, atol=1e-5)


def test_long_rows_in_pieces_give_the_same_gradient(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tunable = tunable_of(base)
    stir(tunable)
    whole_P = gradient(tunable, rows_of())
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 4)
    torch.testing.assert_close(gradient(tunable, rows_of()), whole_P, rtol=1e-4, atol=1e-5)


def test_packed_and_cached_base_give_the_same_gradient(base: Path) -> None:
    gradients = []
    for cached in (True, False):
        tunable = tunable_of(base, cached=cached)
        stir(tunable)
        gradients.append(gradient(tunable, rows_of()))
    assert torch.equal(*gradients)


def test_candidates_after_one_prompt_score_as_separate_rows(base: Path) -> None:
    tunable, rows = tunable_of(base), rows_of()
    stir(tunable)
    candidates = Candidates((11, 12), ((21, 22, 5), (23, 5), (24, 25, 26, 5)))
    made = dev_batch(rows, candidates)
    with torch.no_grad():
        log_N = log_probabilities(
            tunable.decoder, tunable.decoder.hidden(made.batch.pack, made.batch.places_N), made.batch.targets_N
        )
    expected = [(row, label) for row in range(3) for label in (None, 0, 1, 2)]
    assert [(each.row, each.label) for each in made.continuations] == expected
    for each in made.continuations:
        row = rows[each.row]
        answer = row.answer if each.label is None else candidates.shared + candidates.own[each.label]
        count = len(answer) if each.label is None else len(candidates.own[each.label])
        alone = training_batch([Row("x", 0, row.prompt, answer, (1.0,) * len(answer))], (1.0,))
        with torch.no_grad():
            log_alone_N = log_probabilities(
                tunable.decoder, tunable.decoder.hidden(alone.pack, alone.places_N), alone.targets_N
            )
        assert float(log_N[each.targets].sum()) == pytest.approx(float(log_alone_N[-count:].sum()), abs=1e-3)
        assert made.batch.targets_N[each.targets].tolist() == list(answer[-count:])


def test_a_fresh_adapter_changes_nothing_and_training_leaves_the_base_alone(base: Path) -> None:
    before = sha256(base)
    tunable, rows = tunable_of(base), rows_of()
    batch = training_batch(rows, (1.0, 1.0, 1.0))
    with torch.no_grad():
        fresh_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
        tunable.lora.values_P.zero_()
        tunable.lora.refresh()
        assert torch.equal(fresh_ND, tunable.decoder.hidden(batch.pack, batch.places_N))
    assert sha256(base) == before


@pytest.mark.parametrize(("targets", "touched"), [("attention", 4), ("feed-forward", 3), ("all", 7)])
def test_only_the_wanted_layers_train(base: Path, targets: str, touched: int) -> None:
    tunable = tunable_of(base, target_modules=targets)
    assert len(tunable.lora.layers) == touched * len(tunable.model_config.layers)
    stir(tunable)
    found_P = gradient(tunable, rows_of())
    for layer in tunable.lora.layers:
        assert tunable.lora.a(layer.name, found_P).any()
        assert tunable.lora.b(layer.name, found_P).any()
