"""Folds for cross-validation, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def stratified_folds(label_N: Sequence[int] | NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Each row's fold, the labels spread evenly. Shape: (rows,)."""
    draw = random.Random(seed)
    order = sorted(range(len(label_N)), key=lambda i: int(label_N[i]))
    shuffled = sorted(order, key=lambda i: (int(label_N[i]), draw.random()))
    fold_N = np.empty(len(label_N), dtype=np.intp)
    fold_N[shuffled] = np.arange(len(label_N)) % FOLDS
    return fold_N


def group_folds(groups: Sequence[str], seed: int) -> NDArray[np.intp]:
    """Each row's fold from its group's name; a group is never divided. Shape: (rows,)."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    fold_of = {name: at % FOLDS for at, name in enumerate(names)}
    return np.asarray([fold_of[name] for name in groups], dtype=np.intp)
