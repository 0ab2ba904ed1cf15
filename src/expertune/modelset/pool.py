"""Combine the members' probabilities of a record by the model set's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..stats.opinion_pool import logs, pool, tempered
from .records import TFIDF


def combine(config: Mapping[str, Any], shares: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """A record's probabilities by the set's rule, from those that its members gave (by name, in the labels' order).

    A single member's are as it gave them; those of an ensemble's members are calibrated before they are mixed.
    """
    chosen = config["rule"]["members"]
    if config["rule"]["kind"] == "single":
        return tuple(shares[chosen[0]])
    parts = {each["name"]: each for each in config["models"]} | {TFIDF: config["tfidf"]}
    calibrated = {name: _calibrated(shares[name], parts[name]["calibration"]) for name in chosen}
    return pool(calibrated, {name: parts[name]["weight"] for name in chosen})


def _calibrated(shares: Sequence[float], calibration: Mapping[str, Any] | None) -> Sequence[float]:
    if calibration is None:
        return shares
    share_K = tempered(logs([shares]), calibration["temperature"], np.asarray(calibration["bias"]))[0]
    return tuple(float(each) for each in share_K)
