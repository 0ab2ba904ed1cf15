"""What a run advises after a training that gained nothing: never a higher learning rate where a loss rose."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from expertune.fine_tuner import FineTuner
from expertune.train.advice import advice, rate_too_high
from expertune.train.events import DevEvent, Event, StepEvent

BASE = Path(__file__).resolve().parents[2] / "examples/base.gguf"
RAISE = "check the ratings, or raise --epochs or --learning-rate"


def history(losses: Sequence[float], looks: Sequence[float] = (), *, rate: float = 1e-3) -> list[Event]:
    """A training's events: linear warm-up over two steps, then a cosine to zero."""
    steps = len(losses)
    rates = [rate / 2, *(rate * 0.5 * (1 + math.cos(math.pi * at / steps)) for at in range(steps))]
    return [
        *(DevEvent(at, steps, loss, loss, None, 0.5, 0.5, False, 0.1) for at, loss in enumerate(looks)),
        *(StepEvent(at, steps, 0.5, loss, rates[at], 1.0, 9, 0.1) for at, loss in enumerate(losses)),
    ]


def test_a_loss_that_rises_to_the_end() -> None:
    """The figures of the report: 7.0 to 21.9 in three steps, the rate at its highest value."""
    found = advice(history([7.0, 6.8, 21.9], [7.1], rate=1.0))
    assert found == "the training loss rose from 7.10 to 11.90: lower --learning-rate to 0.1"


def test_a_loss_that_rises_and_settles_below_its_beginning() -> None:
    """As a model does that has diverged and then learns to say one thing, while the rate falls to zero."""
    found = history([7.2, 4.9, 7.2, 11.2, 18.4, 18.2, 14.3, 8.6, 4.3, 5.3, *[3.5] * 18], [7.7, 7.2, 4.0, 3.3], rate=1.0)
    assert advice(found).startswith("the training loss rose from 7.70 to ")
    assert advice(found).endswith("lower --learning-rate to 0.1")


@pytest.mark.parametrize("last", [1.3, math.inf, math.nan])
def test_a_validation_loss_above_the_bases(last: float) -> None:
    found = advice(history([1.2, 1.0, 0.4, 0.1], [1.2, 1.1, last], rate=5e-3))
    assert found.startswith("the loss on the validation records rose from 1.20 to ")
    assert found.endswith("lower --learning-rate to 0.0005")


@pytest.mark.parametrize(
    ("losses", "looks"),
    [
        ([1.2, 1.19, 1.18, 1.19], [1.2, 1.199]),
        ([1.2, 1.2, 1.2, 1.2], [1.2, 1.205]),  # bf16 rounds
        ([1.2, 0.9, 0.5, 0.2], [1.2, 0.6]),
        ([0.3], []),
        ([], []),
    ],
    ids=["hardly moves", "rounding", "falls", "one step", "no step"],
)
def test_no_loss_rose(losses: Sequence[float], looks: Sequence[float]) -> None:
    assert not rate_too_high(history(losses, looks))
    assert advice(history(losses, looks)) == RAISE


def test_batches_that_differ_are_no_rise() -> None:
    """Log-losses of eight rows a step around one mean, as where the rate is too low to move anything."""
    draw, wrong = random.Random(5), 0
    for _ in range(200):
        losses = [sum(draw.expovariate(1.0) for _ in range(8)) / 8 for _ in range(80)]
        base = sum(draw.expovariate(1.0) for _ in range(40)) / 40
        wrong += rate_too_high(history(losses, [base, base]))
    assert wrong <= 4


def test_a_high_rate_is_lowered_though_no_loss_rose() -> None:
    found = advice(history([1.2, 1.1, 1.0], [1.2, 1.0], rate=0.05))
    assert found == "the learning rate of 0.05 is too high for a model of any size: lower --learning-rate to 0.005"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])  # with 4 the adapter is so far off that llama.cpp cannot score with it
def test_a_run_that_diverges_is_told_to_lower_the_rate(seed: int, tmp_path: Path) -> None:
    """Rows and settings of the report, where it was told to "raise --epochs or --learning-rate"."""
    draw = random.Random(seed)
    words = [["fever", "cough", "throat", "sputum"], ["ankle", "cut", "knee", "burn"]]
    prompts = [
        f"Visit {at}: {' and '.join(draw.sample(words[at % 2], 2))}, age {draw.randint(1, 60)}, "
        f"bed {draw.randint(1, 999)}"
        for at in range(80)
    ]
    rows = pd.DataFrame({"Prompt": prompts, "Standardized_Rating": [1, 0] * 40})
    _, metadata = FineTuner(quiet=True).process_dataset(
        rows, str(BASE), None, "t", tmp_path, epochs=2, learning_rate=1.0, approach="tune", threads=1,
        compute_dtype="fp32", max_tokens=200, model_set_budget_seconds=1, bootstrap_resamples=100,
    )  # fmt: skip
    assert "raise" not in metadata["fallback_reason"]
    assert metadata["fallback_reason"].endswith("lower --learning-rate to 0.1")
    assert not (tmp_path / "checkpoints").exists()
