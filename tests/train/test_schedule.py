"""Steps and learning rates of a training, and how a limit on its time settles them."""

from __future__ import annotations

import pytest

from expertune.config import Config
from expertune.train.events import DevEvent, Event, StepEvent
from expertune.train.schedule import Schedule

CONFIG = Config(epochs=3, learning_rate=1e-3, batch_size=4, warmup_ratio=0.1, evals_per_epoch=1)


def history(steps: int, seconds: float, evaluation: float = 0.0) -> list[Event]:
    first = DevEvent(0, steps, 1.0, 1.0, None, 0.5, 0.5, True, evaluation)
    return [first, *(StepEvent(at, steps, 0.5, 1.0, 1e-3, 1.0, 9, seconds) for at in range(steps))]


def test_steps_of_all_epochs():
    schedule = Schedule.of(CONFIG, 130)
    assert (schedule.steps_in_epoch, schedule.steps) == (33, 99)
    assert schedule.evaluation_steps() == {33, 66, 99}


def test_the_rate_rises_and_ends_at_zero():
    schedule = Schedule.of(CONFIG, 132)
    rates = [schedule.learning_rate(step) for step in range(schedule.steps)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert schedule.learning_rate(schedule.steps) == pytest.approx(0)


def test_nothing_is_settled_before_a_tenth_of_the_steps():
    schedule = Schedule.of(CONFIG, 132)
    assert schedule.within(1.0, history(9, 5.0)) == schedule


def test_a_slow_training_ends_in_time():
    schedule = Schedule.of(CONFIG, 132).within(60.0, history(10, 1.0, evaluation=5.0))
    assert schedule.settled
    assert schedule.steps == 60  # 50 steps of 1 s, evaluations after 33 and 60
    assert schedule.learning_rate(60) == pytest.approx(0)
    assert schedule.within(1.0, history(30, 1.0)) == schedule


def test_a_fast_training_keeps_its_steps():
    schedule = Schedule.of(CONFIG, 132).within(1000.0, history(10, 1.0))
    assert (schedule.settled, schedule.steps) == (True, 99)


def test_at_least_one_step_is_left():
    assert Schedule.of(CONFIG, 132).within(-5.0, history(10, 1.0)).steps == 11
