"""Select the member of a model set that rates: by validation rows, each calibrated by the other folds' rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..evaluate.compare import Difference, compare
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats import metrics
from ..stats.calibration import fit_calibration
from ..stats.folds import group_folds
from .records import TFIDF, MemberCalibration, Rule, ValidationAgreement

LEAST = 1e-9  # a probability of 0 has no logarithm

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class RaterSelection:
    """The rule, each member's agreement and calibration, and the validation rows as the rule's member rates them.

    `best` is the best language model, whether it rates or not.
    """

    rule: Rule
    agreements: Mapping[str, ValidationAgreement]
    calibrations: Mapping[str, MemberCalibration | None]
    rated: tuple[Rated, ...]
    best: str


def select_rater(
    shares: Mapping[str, Sequence[Sequence[float]]],
    by_words: Sequence[Rated],
    truth: Sequence[Rating],
    scale: RatingScale,
    groups: Mapping[str, str],
    config: Config,
) -> RaterSelection:
    """Select from `shares` (language model → probabilities of each row of `truth`, at least one of both).

    The best language model rates, unless the rater `by_words` (the rows as it rates them; empty without one) is proven
    better than it: the paired interval of the difference in macro-F1, drawn by groups, is above 0.
    """
    true_N = np.asarray([scale.values.index(row.value) for row in truth], dtype=np.intp)
    share_NK = {name: np.asarray(rows, dtype=np.float64) for name, rows in shares.items()}
    fold_N = group_folds([groups.get(row.id, row.id) for row in truth], config.seed)
    calibrated_NK = {name: _cross_calibrated(own_NK, true_N, fold_N, config.seed) for name, own_NK in share_NK.items()}
    agreements = {name: agreement(true_N, own_NK) for name, own_NK in calibrated_NK.items()}
    best = max(shares, key=lambda name: (agreements[name].macro_f1 or 0.0, -agreements[name].log_loss))
    reason = f"{best} is the language model that agrees best with {len(truth)} validation records"
    rater, rated = best, tuple(rated_rows(truth, share_NK[best], scale))
    if by_words:
        agreements[TFIDF] = agreement(true_N, *_shares_and_labels(by_words, scale))
        (gain,) = compare(
            (TFIDF, by_words), {best: rated_rows(truth, calibrated_NK[best], scale)}, truth, scale, groups, config
        )
        reason = f"{reason}; TF-IDF is {_comparison(gain)}"
        rater, rated = (TFIDF, tuple(by_words)) if proven(gain) else (rater, rated)
    return RaterSelection(
        Rule(kind="single", members=(rater,), reason=reason),
        agreements,
        {name: _calibration(own_NK, true_N, config.seed) for name, own_NK in share_NK.items()},
        rated,
        best,
    )


def _shares_and_labels(rated: Sequence[Rated], scale: RatingScale) -> tuple[Floats, list[int]]:
    """The probabilities, and the indices of the labels."""
    share_NK = np.asarray([each.probabilities for each in rated], dtype=np.float64)
    return share_NK, [scale.values.index(each.value) for each in rated]


def proven(difference: Difference) -> bool:
    """True if the whole interval of the difference is above 0."""
    return difference.value > 0 and not difference.includes_zero


def _comparison(difference: Difference) -> str:
    span = difference.interval
    shown = f"{difference.value:+.3f}{f' [{span.low:+.3f} to {span.high:+.3f}]' if span else ''} macro-F1"
    return f"{'better' if proven(difference) else 'not proven better'} than {difference.second} ({shown})"


def agreement(
    true_N: Sequence[int] | Indices, share_NK: Floats, predicted_N: Sequence[int] | None = None
) -> ValidationAgreement:
    """Figures of some rows' probabilities, and of the labels chosen by them (None: the likeliest), against the true
    labels, all by index; at least one row."""
    true = [int(each) for each in true_N]
    predicted = predicted_N or [int(each) for each in share_NK.argmax(axis=1)]
    confusion_TP = metrics.confusion(true, predicted, share_NK.shape[1])
    own_N = share_NK[np.arange(len(true)), true]
    return ValidationAgreement(
        rows=len(true),
        accuracy=metrics.defined(metrics.accuracy(confusion_TP).item()),
        macro_f1=metrics.defined(metrics.macro_f1(confusion_TP).item()),
        log_loss=float(-np.log(np.clip(own_N, LEAST, 1.0)).mean()),
    )


def rated_rows(
    truth: Sequence[Rating], share_NK: Sequence[Sequence[float]] | Floats, scale: RatingScale
) -> list[Rated]:
    return [Rated.of(row.id, shares, scale) for row, shares in zip(truth, share_NK, strict=True)]


def _cross_calibrated(share_NK: Floats, true_N: Indices, fold_N: Indices, seed: int) -> Floats:
    """A member's probabilities, each row calibrated without its own fold."""
    calibrated_NK = share_NK.copy()
    for fold in np.unique(fold_N):
        out_N, in_N = fold_N == fold, fold_N != fold
        calibration = fit_calibration(share_NK[in_N], true_N[in_N], seed=seed)
        if calibration is not None:
            calibrated_NK[out_N] = [calibration.apply(row) for row in share_NK[out_N]]
    return calibrated_NK


def _calibration(share_NK: Floats, true_N: Indices, seed: int) -> MemberCalibration | None:
    found = fit_calibration(share_NK, true_N, seed=seed)
    return None if found is None else MemberCalibration(temperature=found.temperature, bias=found.bias)
