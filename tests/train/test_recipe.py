"""Learning rate and epochs: "auto" depends on the model's size, a given number is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertune.config import Config
from expertune.gguf.read import GGUFFile
from expertune.train.recipe import epochs, layers, learning_rate, with_recipe

BASE = Path(__file__).parents[2] / "examples/base.gguf"


def test_the_rate_falls_with_the_width_as_published() -> None:
    # tinker-cookbook, get_lr for Llama: 5e-5 · 10 · (2000 / hidden size) ** 0.781
    for width, published in ((576, 1.3e-3), (2048, 4.9e-4), (3072, 3.6e-4), (4096, 2.9e-4), (8192, 1.7e-4)):
        assert learning_rate(width, 4) == pytest.approx(published, rel=0.03)
    rates = [learning_rate(width, 8) for width in (64, 256, 576, 2048, 8192, 65536)]
    assert rates == sorted(rates, reverse=True)
    assert max(rates) <= 3e-3 and min(rates) >= 5e-5


def test_auto_becomes_a_number_and_what_was_given_stays() -> None:
    with GGUFFile(BASE) as file:
        auto = with_recipe(file, Config())
        assert auto.learning_rate == learning_rate(256, 8) and auto.epochs == 5.0
        given = with_recipe(file, Config(learning_rate=1e-4, epochs=3.0))  # the seed's own values
        assert (given.learning_rate, given.epochs) == (1e-4, 3.0)
        assert with_recipe(file, auto) == auto == with_recipe(file, auto, 900)
        assert with_recipe(file, Config(), 900).epochs == 4.0
        assert [with_recipe(file, Config(layers=each)).layers for each in ("all", 3)] == ["all", 3]


def test_many_records_are_passed_over_less_often() -> None:
    assert [epochs(records) for records in (40, 499, 500, 9000)] == [5.0, 5.0, 4.0, 4.0]


def test_the_top_third_of_the_blocks_gets_an_adapter_but_at_least_ten() -> None:
    assert [layers(blocks) for blocks in (1, 3, 12, 18, 30, 32, 61)] == [1, 3, 10, 10, 10, 11, 21]


def test_a_batch_of_four_times_the_records_takes_twice_the_rate() -> None:
    assert learning_rate(2048, 16) == pytest.approx(2 * learning_rate(2048, 4), rel=0.03)
