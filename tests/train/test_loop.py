"""Training loop: resuming gives identical results, losses are golden, errors are one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from expertune.config import Config
from expertune.errors import Interrupted, TrainingFailedError, UsageError
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, Tunable, load
from expertune.train.batches import groups_of, training_batch
from expertune.train.checkpoint import NAME, CheckpointPlace
from expertune.train.class_balance import class_weights
from expertune.train.encode import Candidates, Row
from expertune.train.evaluate import evaluate
from expertune.train.events import DevEvent, StepEvent
from expertune.train.loop import Trainer, TrainingData

CANDIDATES = Candidates((30, 31), ((41, 42, 7), (43, 7), (44, 45, 7)))
CONFIG = Config(
    rank=4,
    alpha=8.0,
    epochs=3,
    batch_size=4,
    learning_rate=3e-3,
    evals_per_epoch=1,
    checkpoint_seconds=0.0,
    class_weight="none",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    tiny.make(path, qtype="Q8_0")
    return path


def learnable_rows(count: int, seed: int) -> list[Row]:
    """The token at the start of the prompt decides the label."""
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label = int(draw.integers(0, 3))
        prompt = (5, 100 + label, *(int(token) for token in draw.integers(200, 400, 12)))
        answer = (*CANDIDATES.shared, *CANDIDATES.own[label], 9)
        rows.append(Row(f"r{index}", label, prompt, answer, (1.0,) * len(answer)))
    return rows


def open_tunable(base: Path, config: Config = CONFIG) -> Tunable:
    return load(GGUFFile(base), config, Placement(torch.device("cpu"), torch.float32, True, 1))


def trainer_of(
    tunable: Tunable,
    folder: Path | None = None,
    *,
    config: Config = CONFIG,
    run_id: str = "run",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    data = TrainingData(learnable_rows(36, 0), learnable_rows(18, 1), CANDIDATES)
    place = CheckpointPlace(folder, run_id, resume) if folder is not None else None
    return Trainer(tunable, data, config, checkpoints=place, should_stop=should_stop)


@pytest.mark.slow
def test_training_learns_what_decides_the_label(base: Path) -> None:
    tunable = open_tunable(base)
    config = Config(**{**vars(CONFIG), "epochs": 12.0, "learning_rate": 1e-2})
    trainer = trainer_of(tunable, config=config)
    events = list(trainer.run())
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert len(steps) == trainer.steps or trainer.result.macro_f1 == 1.0
    assert trainer.result.macro_f1 > 0.9 > trainer.result.base_macro_f1
    assert steps[-1].loss < steps[0].loss / 4


def test_a_limit_on_the_time_is_applied_once(base: Path, tmp_path: Path) -> None:
    """With no time left, the training ends one step after the first tenth; a resumed one keeps that number."""
    whole = open_tunable(base)
    unbroken = trainer_of(whole)
    assert unbroken.steps == 27
    steps = [event for event in unbroken.run(seconds=0.0) if isinstance(event, StepEvent)]
    assert [event.steps for event in steps] == [27, 27, 27, 4]
    assert unbroken.result.history[-1].kind == "dev"

    first, seen = open_tunable(base), list[object]()
    stopped = trainer_of(first, tmp_path, should_stop=lambda: sum(isinstance(e, StepEvent) for e in seen) >= 3)
    with pytest.raises(Interrupted, match="step 3 of 4"):
        seen.extend(stopped.run(seconds=0.0))
    second = open_tunable(base)
    resumed = trainer_of(second, tmp_path, resume=True)
    list(resumed.run())
    assert resumed.steps == 4
    assert torch.equal(second.lora.values_P, whole.lora.values_P)


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_adapter_bit_for_bit(base: Path, tmp_path: Path) -> None:
    whole = open_tunable(base)
    unbroken = trainer_of(whole)
    list(unbroken.run())

    for stop_at in (1, 9, 17):
        first = open_tunable(base)
        seen: list[object] = []
        trainer = trainer_of(
            first,
            tmp_path / str(stop_at),
            should_stop=lambda seen=seen, stop_at=stop_at: sum(isinstance(e, StepEvent) for e in seen) >= stop_at,
        )
        with pytest.raises(Interrupted, match="--resume"):
            seen.extend(trainer.run())
        second = open_tunable(base)
        resumed = trainer_of(second, tmp_path / str(stop_at), resume=True)
        list(resumed.run())
        assert torch.equal(second.lora.values_P, whole.lora.values_P)
        losses = [[event.loss for event in each.result.history] for each in (resumed, unbroken)]
        assert losses[0] == losses[1]
        for state in ("base_log_RK", "best_log_RK"):
            assert torch.equal(getattr(resumed.result, state), getattr(unbroken.result, state))


@pytest.mark.slow
def test_the_result_has_the_predictions_of_the_base_and_of_the_best_state(base: Path) -> None:
    tunable = open_tunable(base)
    trainer = trainer_of(tunable, config=Config(**{**vars(CONFIG), "epochs": 8.0}))
    list(trainer.run())
    dev, found = learnable_rows(18, 1), trainer.result
    assert torch.equal(evaluate(tunable, dev, CANDIDATES, batch_size=8).log_probabilities_RK, found.best_log_RK)
    fresh = evaluate(open_tunable(base), dev, CANDIDATES, batch_size=8).log_probabilities_RK
    assert torch.equal(fresh, found.base_log_RK) and not torch.equal(fresh, found.best_log_RK)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import torch
from expertune.train import checkpoint
import test_loop
saved = checkpoint.save
def save_and_die(folder, state, run):
    if state.step == 5:
        real = os.replace
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)  # the moment before the rename
    saved(folder, state, run)
checkpoint.save = save_and_die
torch.set_num_threads({threads})  # as the other two runs: the sums are split by threads
list(test_loop.trainer_of(test_loop.open_tunable(Path({base!r})), Path({folder!r})).run())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_kill_9_while_a_checkpoint_is_written_loses_only_the_steps_after_the_last_one(
    base: Path, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    code = KILLED.format(
        tests=str(here.parent),
        here=str(here),
        base=str(base),
        folder=str(tmp_path / "run"),
        threads=torch.get_num_threads(),
    )
    killed = subprocess.run([sys.executable, "-c", code])
    assert killed.returncode == -signal.SIGKILL
    whole, after = open_tunable(base), open_tunable(base)
    list(trainer_of(whole).run())
    resumed = trainer_of(after, tmp_path / "run", resume=True)
    assert sum(isinstance(event, StepEvent) for event in resumed.run()) == resumed.steps - 4
    assert torch.equal(after.lora.values_P, whole.lora.values_P)


def test_a_finished_training_is_not_done_again(base: Path, tmp_path: Path) -> None:
    first, second = open_tunable(base), open_tunable(base)
    list(trainer_of(first, tmp_path).run())
    resumed = trainer_of(second, tmp_path, resume=True)
    assert list(resumed.run()) == []
    assert torch.equal(first.lora.values_P, second.lora.values_P)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(base: Path, tmp_path: Path) -> None:
    tunable = open_tunable(base)
    list(trainer_of(tunable, tmp_path).run())
    with pytest.raises(UsageError, match="belongs to other settings"):
        trainer_of(tunable, tmp_path, run_id="another", resume=True)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match="damaged"):
        trainer_of(tunable, tmp_path, resume=True)


def test_a_loss_that_is_nan_stops_with_advice(base: Path) -> None:
    tunable = open_tunable(base)
    tunable.lora.values_P[0] = float("nan")
    tunable.lora.refresh()
    with pytest.raises(TrainingFailedError, match="loss is NaN or infinite at step 1; lower --learning-rate"):
        list(trainer_of(tunable).run())


def test_accumulated_passes_are_one_large_batch(base: Path) -> None:
    small, large = open_tunable(base), open_tunable(base)
    for tunable, sizes in (
        (small, {"batch_size": 3, "gradient_accumulation_steps": 4}),
        (large, {"batch_size": 12, "gradient_accumulation_steps": 1}),
    ):
        config = Config(**{**vars(CONFIG), **sizes, "epochs": 1.0})
        list(trainer_of(tunable, config=config).run())
    torch.testing.assert_close(small.lora.values_P, large.lora.values_P, rtol=1e-3, atol=2e-5)


def test_early_stopping_keeps_the_last_state_that_was_not_worse_in_both_figures(base: Path) -> None:
    config = Config(**{**vars(CONFIG), "learning_rate": 0.5, "epochs": 40.0, "early_stopping_patience": 2})
    tunable = open_tunable(base)
    trainer = trainer_of(tunable, config=config)
    events = list(trainer.run())
    evaluations = [event for event in events if isinstance(event, DevEvent)]
    assert trainer.result.steps < trainer.steps
    kept = evaluations[0]
    for each in evaluations[1:]:
        assert each.best == (each.macro_f1 > kept.macro_f1 or each.label_loss < kept.label_loss)
        kept = each if each.best else kept
    assert (trainer.result.macro_f1, trainer.result.loss) == (kept.macro_f1, kept.label_loss)
    assert not any(each.best for each in evaluations[-2:])


def test_balanced_weights_make_every_class_count_the_same() -> None:
    rows = learnable_rows(36, 0)
    uneven = [row for row in rows if row.label != 2] + [row for row in rows if row.label == 2][:2]
    counts = [sum(row.label == label for row in uneven) for label in range(3)]
    weights = class_weights("balanced", uneven, 3)
    assert [weight * count for weight, count in zip(weights, counts, strict=True)] == pytest.approx(
        [len(uneven) / 3] * 3
    )
    assert class_weights("none", uneven, 3) == class_weights("auto", uneven, 3) == [1.0] * 3


def test_every_row_is_trained_once_an_epoch_and_the_short_last_batch_is_kept() -> None:
    rows = learnable_rows(11, 0)
    groups = list(groups_of(rows, range(11), 4))
    assert [len(group) for group in groups] == [4, 4, 3]
    assert sum(training_batch(group, (1.0,) * 3).tokens for group in groups) == sum(row.length for row in rows)


def test_training_without_rows_is_refused() -> None:
    for train, dev in ((0, 3), (3, 0)):
        with pytest.raises(TrainingFailedError, match="no rows are left"):
            TrainingData(learnable_rows(train, 0), learnable_rows(dev, 1), CANDIDATES)


def test_losses_are_golden(base: Path) -> None:
    """A refactoring must not move them; a change that means to says so and writes new ones."""
    losses = [event.loss for event in trainer_of(open_tunable(base)).run() if isinstance(event, StepEvent)]
    assert losses[:6] == pytest.approx([2.64908, 3.39411, 3.01347, 2.81456, 3.78944, 2.19746], abs=2e-3)
