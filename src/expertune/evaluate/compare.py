"""Evaluate one rater on test records, and compare two raters on the same records."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..config import Config
from ..errors import UsageError
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats import metrics
from ..stats.intervals import (
    KAPPA,
    MACRO_F1,
    Clusters,
    Estimate,
    Interval,
    Statistic,
    bootstrap,
    clusters,
    group_sums,
    mean_clustered,
    paired,
    wilson,
    wilson_clustered,
)
from ..stats.reliability import ReliabilityCurve, calibrate


@dataclass(frozen=True)
class ClassResult:
    """One label against the rest; `support` and `predicted` are counts; `f1` is None if the label never occurs."""

    label: str
    value: int
    support: int
    predicted: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    f1: float | None


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of one rater on `rows` records in `groups` groups. `confusion` has true labels in rows, predicted in
    columns.

    `weighted_kappa` (quadratic) exists for an ordinal scale only; `ordinal_reason` says why it is or is not ordinal.
    `json_validity` is the share of free-text answers that are one complete JSON object with a label of the scale (not
    cut at max_tokens), `answer_agreement` the share of readable answers that give the most probable label.
    """

    name: str
    rows: int
    groups: int
    labels: tuple[str, ...]
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate
    weighted_kappa: Estimate | None
    ordinal_reason: str
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    json_validity: Estimate | None
    answer_agreement: Estimate | None
    log_loss: Estimate
    calibration: ReliabilityCurve
    rows_per_second: float | None


@dataclass(frozen=True)
class Difference:
    """Macro-F1 of `first` minus that of `second` on the same `rows` records; `interval` is None if nothing varies.

    `includes_zero` means that chance could explain the difference; it is True without an interval.
    """

    first: str
    second: str
    value: float
    interval: Interval | None
    rows: int
    metric: str = "macro_f1"
    includes_zero: bool = True  # always derived from the interval

    def __post_init__(self) -> None:
        without_zero = self.interval is not None and not self.interval.low <= 0 <= self.interval.high
        object.__setattr__(self, "includes_zero", not without_zero)


def evaluate(
    name: str,
    truth: Sequence[Rating],
    rated: Sequence[Rated],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    config: Config,
    rows_per_second: float | None = None,
) -> Evaluation:
    """Evaluate `rated` against the expert's `truth`, matched by id; `groups` maps ids to dependent records.

    Records absent from `groups` form groups of their own. Raises UsageError if the ids do not match.
    """
    rater = match_rows(truth, rated, scale, groups)
    statistics = [MACRO_F1, KAPPA]
    if scale.ordinal:
        weighted_kappa = partial(metrics.kappa, disagreement=metrics.quadratic(scale.values))
        statistics.append(Statistic(weighted_kappa, KAPPA.low, KAPPA.high))
    macro_f1, kappa, *weighted = bootstrap(
        rater, statistics, config.bootstrap_resamples, config.seed, config.confidence_level
    )
    by_id, level = {each.id: each for each in rated}, config.confidence_level
    ordered = [by_id[row.id] for row in truth]
    labels, shares = [scale.values.index(row.value) for row in truth], [each.probabilities for each in ordered]
    loss_of_groups = group_sums(metrics.log_loss(labels, shares), groups_of([row.id for row in truth], groups))
    return Evaluation(
        name=name,
        rows=len(truth),
        groups=len(rater.counts_GTP),
        labels=tuple(scale.labels),
        accuracy=accuracy(rater, level),
        macro_f1=macro_f1,
        kappa=kappa,
        weighted_kappa=weighted[0] if weighted else None,
        ordinal_reason=scale.ordinal_reason,
        per_class=per_class(rater, scale, level),
        confusion=tuple(tuple(int(count) for count in line) for line in rater.total_TP),
        json_validity=_json_validity(ordered, scale, level),
        answer_agreement=_answer_agreement(ordered, level),
        log_loss=mean_clustered(*loss_of_groups, level),
        calibration=calibrate(labels, shares, level),
        rows_per_second=rows_per_second,
    )


def compare(
    tuned: tuple[str, Sequence[Rated]],
    others: Mapping[str, Sequence[Rated]],
    truth: Sequence[Rating],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    config: Config,
) -> tuple[Difference, ...]:
    """Macro-F1 of `tuned` (name and ratings) minus that of each other rater, paired by record and group.

    On the records that the other has rated, which may be a sample of `truth`.
    """
    name, rated = tuned
    match_rows(truth, rated, scale, groups)
    differences = []
    for other, other_rated in others.items():
        shared = sampled_truth(truth, other_rated)
        ids = {row.id for row in shared}
        first = match_rows(shared, [each for each in rated if each.id in ids], scale, groups)
        second = match_rows(shared, other_rated, scale, groups)
        estimate = paired(first, second, MACRO_F1, config.bootstrap_resamples, config.seed, config.confidence_level)
        differences.append(Difference(name, other, estimate.value or 0.0, estimate.interval, estimate.n))
    return tuple(differences)


def sampled_truth(truth: Sequence[Rating], rated: Sequence[Rated]) -> list[Rating]:
    ids = {each.id for each in rated}
    return [row for row in truth if row.id in ids]


def match_rows(
    truth: Sequence[Rating], rated: Sequence[Rated], scale: RatingScale, groups: Mapping[str, Hashable]
) -> Clusters:
    """Confusion counts by group, from records matched by id. Raises UsageError if the ids do not match."""
    if not truth:
        raise UsageError("no records to evaluate: the test part is empty; give more rated records or raise test_share")
    label_of = {each.id: scale.labels.index(each.label) for each in rated}
    expected = {row.id for row in truth}
    if len(expected) != len(truth) or len(label_of) != len(rated) or expected != label_of.keys():
        stray = sorted(expected ^ label_of.keys())
        raise UsageError(
            f"{len(truth)} expert-rated and {len(rated)} model-rated records do not match by id"
            f"{f' (first: {stray[0]})' if stray else ' (an id occurs twice)'}; rate the same records again"
        )
    return clusters(
        [scale.values.index(row.value) for row in truth],
        [label_of[row.id] for row in truth],
        len(scale.labels),
        groups_of([row.id for row in truth], groups),
    )


def groups_of(ids: Sequence[str], groups: Mapping[str, Hashable]) -> list[Hashable]:
    """Group of each row by its id; a row absent from `groups` is one of its own."""
    return [groups.get(each, ("row", each)) for each in ids]


def accuracy(rater: Clusters, confidence: float) -> Estimate:
    counts_GTP = rater.counts_GTP
    return wilson_clustered(counts_GTP.trace(axis1=1, axis2=2), counts_GTP.sum(axis=(1, 2)), confidence)


def per_class(rater: Clusters, scale: RatingScale, confidence: float) -> tuple[ClassResult, ...]:
    """Evaluate each label against the rest."""
    f1_K = metrics.f1(rater.total_TP)
    total_G = rater.counts_GTP.sum(axis=(1, 2))
    results = []
    for at, (label, value) in enumerate(zip(scale.labels, scale.values, strict=True)):
        hit_G = rater.counts_GTP[:, at, at]
        true_G, said_G = rater.counts_GTP[:, at].sum(axis=1), rater.counts_GTP[:, :, at].sum(axis=1)
        rejected_G = total_G - true_G - said_G + hit_G
        results.append(
            ClassResult(
                label=label,
                value=value,
                support=int(true_G.sum()),
                predicted=int(said_G.sum()),
                sensitivity=wilson_clustered(hit_G, true_G, confidence),
                specificity=wilson_clustered(rejected_G, total_G - true_G, confidence),
                ppv=wilson_clustered(hit_G, said_G, confidence),
                npv=wilson_clustered(rejected_G, total_G - said_G, confidence),
                f1=metrics.defined(f1_K[at]),
            )
        )
    return tuple(results)


def _json_validity(rated: Sequence[Rated], scale: RatingScale, confidence: float) -> Estimate | None:
    answers = [each.answer for each in rated if each.answer is not None]
    return wilson(sum(valid_json(answer, scale) for answer in answers), len(answers), confidence) if answers else None


def valid_json(answer: str, scale: RatingScale) -> bool:
    """Check that the answer is a single JSON object whose "rating" is exactly a label of the scale."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("rating") in scale.labels


def _answer_agreement(rated: Sequence[Rated], confidence: float) -> Estimate | None:
    if all(each.answer_state is None for each in rated):
        return None
    readable = [each for each in rated if each.answer_state == "rated"]
    return wilson(sum(each.answer_value == each.value for each in readable), len(readable), confidence)
