"""Which members of a model set rate: every figure from dev rows, and none from rows that its own fit has seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..evaluate.compare import Difference, compare
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats import metrics
from ..stats.calibration import FEWEST_ROWS, Calibration, fit_calibration
from ..stats.opinion_pool import fit_weights
from .records import TFIDF

FOLDS = 5
LEAST = 1e-9
ENSEMBLE = "ensemble"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RaterSelection:
    """`rule`, and by member `weights`, `calibrations` and `agreements`, all as in model_set_config.json.

    `rated` are the dev rows as the rule rates them; an ensemble's by cross-validation. `best` is the best language
    model.
    """

    rule: dict[str, Any]
    weights: Mapping[str, float]
    calibrations: Mapping[str, dict[str, Any]]
    agreements: Mapping[str, dict[str, Any]]
    rated: tuple[Rated, ...]
    best: str


@dataclass(frozen=True)
class _Dev:
    """`share_MNK` are the members' probabilities of each dev row and label, `true_N` the true label's index."""

    names: tuple[str, ...]
    share_MNK: Floats
    true_N: NDArray[np.intp]
    fold_N: NDArray[np.intp]
    seed: int


def weigh(
    shares: Mapping[str, Sequence[Sequence[float]]],
    truth: Sequence[Rating],
    scale: RatingScale,
    groups: Mapping[str, str],
    config: Config,
) -> RaterSelection:
    """Of `shares` (member → probabilities of each row of `truth`, at least one row and one language model).

    The best language model rates, unless TF-IDF is proven better than it; and that one, unless all members together
    are proven better: proven means that the paired interval of the difference in macro-F1, drawn by groups, is above 0.
    """
    true = [scale.values.index(row.value) for row in truth]
    dev = _Dev(
        tuple(shares),
        np.asarray([list(map(list, each)) for each in shares.values()], dtype=np.float64),
        np.asarray(true, dtype=np.intp),
        _folds(truth, groups, config.seed),
        config.seed,
    )
    own_MNK, mixed_NK = _cross_validated(dev)
    by_name = dict(zip(dev.names, own_MNK, strict=True))
    agreements = {name: agreement(true, own_NK) for name, own_NK in by_name.items()}
    best = max(
        (name for name in dev.names if name != TFIDF),
        key=lambda name: (agreements[name]["macro_f1"] or 0.0, -agreements[name]["log_loss"]),
    )
    rows = {name: rated_rows(truth, own_NK, scale) for name, own_NK in {**by_name, ENSEMBLE: mixed_NK}.items()}

    def gain(first: str, second: str) -> Difference:
        return compare((first, rows[first]), {second: rows[second]}, truth, scale, groups, config)[0]

    rule = _rule(dev.names, best, len(truth), gain)
    calibrations = [fit_calibration(own_NK, true, seed=config.seed) for own_NK in dev.share_MNK]
    if rule["kind"] == "single":
        (member,) = rule["members"]
        weights = {name: float(name == member) for name in dev.names}
        rated = rated_rows(truth, dev.share_MNK[dev.names.index(member)], scale)
    else:
        final_MNK = np.asarray([_apply(each, own) for each, own in zip(calibrations, dev.share_MNK, strict=True)])
        weights = dict(zip(dev.names, map(float, fit_weights(final_MNK, dev.true_N)), strict=True))
        rated = rows[ENSEMBLE]
    kept = {
        name: {"temperature": each.temperature, "bias": list(each.bias)}
        for name, each in zip(dev.names, calibrations, strict=True)
        if each is not None
    }
    return RaterSelection(rule, weights, kept, agreements, tuple(rated), best)


def _rule(names: Sequence[str], best: str, rows: int, gain: Callable[[str, str], Difference]) -> dict[str, Any]:
    single, told = best, [f"{best} is the language model that agrees best with {rows} dev rows"]
    if TFIDF in names:
        found = gain(TFIDF, best)
        single = TFIDF if proven(found) else best
        told.append(f"TF-IDF is {_told(found)}")
    if len(names) < 2 or rows < FEWEST_ROWS:
        return {"kind": "single", "members": [single], "reason": "; ".join(told)}
    found = gain(ENSEMBLE, single)
    told.append(f"all members together are {_told(found)}")
    if proven(found):
        return {"kind": "ensemble", "members": list(names), "reason": "; ".join(told)}
    return {"kind": "single", "members": [single], "reason": "; ".join(told)}


def proven(difference: Difference) -> bool:
    """The interval of the difference lies above 0."""
    return difference.value > 0 and not difference.includes_zero


def _told(difference: Difference) -> str:
    span = difference.interval
    shown = f"{difference.value:+.3f}{f' [{span.low:+.3f} to {span.high:+.3f}]' if span else ''} macro-F1"
    return f"{'better' if proven(difference) else 'not proven better'} than {difference.second} ({shown})"


def agreement(true: Sequence[int], share_NK: Floats) -> dict[str, Any]:
    """Figures of some rows' probabilities against the indices of their true labels; at least one row."""
    confusion_TP = metrics.confusion(true, [int(each) for each in share_NK.argmax(axis=1)], share_NK.shape[1])
    own_N = share_NK[np.arange(len(true)), np.asarray(true, dtype=np.intp)]
    return {
        "rows": len(true),
        "accuracy": metrics.defined(metrics.accuracy(confusion_TP).item()),
        "macro_f1": metrics.defined(metrics.macro_f1(confusion_TP).item()),
        "log_loss": float(-np.log(np.clip(own_N, LEAST, 1.0)).mean()),
    }


def rated_rows(truth: Sequence[Rating], share_NK: Any, scale: RatingScale) -> list[Rated]:
    """Probabilities as ratings of these rows."""
    rows = []
    for row, shares in zip(truth, share_NK, strict=True):
        best = max(range(len(shares)), key=lambda k: shares[k])
        rows.append(Rated(row.id, scale.labels[best], scale.values[best], tuple(map(float, shares))))
    return rows


def _folds(truth: Sequence[Rating], groups: Mapping[str, str], seed: int) -> NDArray[np.intp]:
    names = sorted({groups.get(row.id, row.id) for row in truth})
    random.Random(seed).shuffle(names)
    fold_of = {name: at % FOLDS for at, name in enumerate(names)}
    return np.asarray([fold_of[groups.get(row.id, row.id)] for row in truth], dtype=np.intp)


def _cross_validated(dev: _Dev) -> tuple[Floats, Floats]:
    """Each member's probabilities, calibrated without the row's fold, and those of all, mixed without it."""
    own_MNK = dev.share_MNK.copy()
    mixed_NK = dev.share_MNK.mean(axis=0)
    for fold in np.unique(dev.fold_N):
        out_N, in_N = dev.fold_N == fold, dev.fold_N != fold
        if not in_N.any():
            continue
        true = [int(each) for each in dev.true_N[in_N]]
        seen = []
        for member, share_NK in enumerate(dev.share_MNK):
            found = fit_calibration(share_NK[in_N], true, seed=dev.seed)
            own_MNK[member][out_N] = _apply(found, share_NK[out_N])
            seen.append(_apply(found, share_NK[in_N]))
        weight_M = fit_weights(np.asarray(seen), dev.true_N[in_N])
        mixed_NK[out_N] = np.tensordot(weight_M, own_MNK[:, out_N], axes=1)
    return own_MNK, mixed_NK


def _apply(calibration: Calibration | None, share_NK: Floats) -> Floats:
    if calibration is None:
        return share_NK
    return np.asarray([calibration.apply(row) for row in share_NK])
