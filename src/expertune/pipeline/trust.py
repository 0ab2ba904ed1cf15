"""How far the product's later ratings can be trusted: learnt from the dev rows, shown on the test rows."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..evaluate.intervals import wilson
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


def shown_coverage(trust: Trust, test: Pass, prepared: Prepared, config: Config) -> dict[str, Any]:
    """How often the conformal set of a test row holds its true label, for each label, beside what is stated."""
    conformal = trust.conformal
    if conformal is None:
        return {}
    labels: list[dict[str, Any]] = []
    sets = [conformal.labels_for(rated.probabilities) for rated in test.rated]
    for label, exact in zip(conformal.labels, conformal.exact, strict=True):
        own = [each for each, row in zip(sets, prepared.examples["test"], strict=True) if row.label == label]
        held = sum(label in each for each in own)
        labels.append(
            {
                "label": label,
                "rows": len(own),
                "coverage": wilson(held, len(own), config.confidence),
                "set_size": sum(map(len, own)) / len(own) if own else None,
                "assured": exact,
            }
        )
    return {"nominal": conformal.coverage, "labels": labels, "notes": conformal.notes()}
