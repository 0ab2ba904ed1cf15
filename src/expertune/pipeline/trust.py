"""How far a product's later ratings can be trusted: learnt from the dev rows."""

from __future__ import annotations

from ..config import Config
from ..rate.score import Pass
from ..rate.trust import Trust, fit_trust
from .prepare import Prepared


def learn_trust(dev: Pass, prepared: Prepared, config: Config) -> Trust:
    """Calibration, conformal thresholds and novelty of a product, from its ratings of the dev rows."""
    train, shown = prepared.examples["train"], prepared.examples["dev"]
    return fit_trust(
        dev.rated,
        [example.value for example in shown],
        [example.messages[-1]["content"] for example in train],
        [example.messages[-1]["content"] for example in shown],
        prepared.scale,
        seed=config.seed,
    )
