"""The choice between words, codes and both: log-loss decides unless macro-F1 is proven worse."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from expertune.config import Config
from expertune.modelset.choose import by_scoring
from expertune.predict.score import Rated, mean_shares
from expertune.ratings.dataset import Dataset, load_dataset

CONFIG = Config(bootstrap_resamples=200, dev_share=0.4, test_share=0.1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rows = [{"Row_ID": at, "Prompt": f"visit {at} {at * 7919}", "Standardized_Rating": at % 2} for at in range(200)]
    return load_dataset(pd.DataFrame(rows), {"Yes": 1, "No": 0}, "t", CONFIG)


def rated(dataset: Dataset, sure: float, wrong: int = 0) -> list[Rated]:
    """The expert's label gets `sure`, and one of each `wrong` records the other label (0: none)."""
    found: list[Rated] = []
    for at, row in enumerate(dataset.split.dev):
        share = 1 - sure if wrong and at % wrong == 0 else sure
        shares = (share, 1 - share) if row.label == "Yes" else (1 - share, share)
        found.append(Rated.of(row.id, shares, dataset.scale))
    return found


@pytest.mark.parametrize(
    ("words", "code", "both", "chosen"),
    [
        ((0.8, 5), (0.95, 5), (0.9, 5), "words"),  # surer and as often wrong
        ((0.6, 5), (0.6, 5), (0.6, 5), "words"),  # equal
        ((0.7, 5), (0.8, 9), (0.75, 7), "code"),
        ((0.7, 5), (0.8, 9), (0.9, 0), "both"),
        ((0.55, 0), (0.95, 10), (0.54, 0), "words"),  # lower log-loss, macro-F1 proven worse
    ],
)
def test_log_loss_decides_unless_macro_f1_is_proven_worse(
    dataset: Dataset, words: Any, code: Any, both: Any, chosen: str
) -> None:
    others = {"code": rated(dataset, *code), "both": rated(dataset, *both)}
    found = by_scoring(rated(dataset, *words), others, dataset, CONFIG)  # pyright: ignore[reportArgumentType]
    assert found.by == chosen, found
    assert set(found.figures) == {"words", "code", "both"} and found.figures["words"]["log_loss"] > 0


def test_both_is_the_mean_of_the_log_probabilities() -> None:
    assert mean_shares([(0.25, 0.75)]) == (0.25, 0.75)
    assert mean_shares([(0.8, 0.2), (0.2, 0.8)]) == pytest.approx((0.5, 0.5))
    assert mean_shares([(0.9, 0.1), (0.5, 0.5)]) == pytest.approx((0.75, 0.25))
    assert mean_shares([(1.0, 0.0), (0.5, 0.5)])[0] == pytest.approx(1.0)
