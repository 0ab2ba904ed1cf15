"""Compare the saved file with the trained adapter on the validation records, beyond the noise of reading a file.

Two correct programs that read one quantised file round its activations differently, so their probabilities differ, and
labels near a tie change places. A run measures this noise: llama.cpp and our decoder read the same file
(docs/decisions/0015).

Axes: N record · K label.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..predict.score import Pass, Rated
from ..stats.intervals import Estimate, difference_clustered
from ..stats.metrics import Floats, log_loss

LEAST_LOSS = 0.02  # nats; a smaller loss is below the sampling error of any test with less than 2,500 records
MOST_NOISE = 0.1  # mean difference; rounding gave up to 0.03, so from here on one of the two readers is wrong


@dataclass(frozen=True)
class Noise:
    """Difference between two correct readers of one file, llama.cpp and our decoder, on the validation records.

    `mean`, `p95` and `p99` (percentiles) are over the records, of the largest difference of a label's probability;
    `labels` is the share of records to which the two give different labels, `log_loss` the difference of their mean
    log-losses.
    """

    mean: float
    p95: float
    p99: float
    labels: float
    log_loss: Estimate

    @property
    def margin(self) -> float:
        """Distance of the two largest probabilities above which 99 % of the labels do not depend on the reader."""
        return 2 * self.p99  # the first may fall by p99 and the second rise by as much

    @property
    def loss_limit(self) -> float:
        """Largest mean log-loss difference that reading explains: the far end of its interval."""
        value, interval = self.log_loss.value or 0.0, self.log_loss.interval
        ends = (value,) if interval is None else (interval.low, interval.high)
        return max(LEAST_LOSS, *map(abs, ends))


@dataclass(frozen=True)
class FileAgreement:
    """Agreement of a saved file, as llama.cpp reads it, with base + adapter on `rows` validation records.

    `labels` is the share of equal labels among the `clear_rows` records whose margin exceeds the noise, and
    `probability_gap` the mean over all records of the largest difference of a probability. `log_loss` is the file's
    less the adapter's, paired by record; it must not exceed `log_loss_limit`.
    Runs before version 0.2.0 measured no noise: `labels` counts all records, and the last four are None.
    """

    labels: float
    probability_gap: float
    rows: int
    passed: bool
    clear_rows: int | None = None
    log_loss: Estimate | None = None
    log_loss_limit: float | None = None
    noise: Noise | None = None


@dataclass(frozen=True)
class ValidationTruth:
    """Index of the expert's label, and group, of each validation record."""

    labels: Sequence[int]
    groups: Sequence[Hashable]


@dataclass(frozen=True)
class CheckedFile:
    """A saved file's predictions for validation records: by llama.cpp (`served`, all or a sample) and by our decoder
    (`reread`, and by the codes of the labels, empty without a code branch); and its agreement with the adapter.
    """

    served: Pass
    reread: Pass
    agreement: FileAgreement
    by_code: Sequence[Rated] = ()


def check(
    adapter: Sequence[Rated], served: Sequence[Rated], reread: Sequence[Rated], truth: ValidationTruth, config: Config
) -> FileAgreement:
    """Compare a saved file with `adapter`, the predictions of base + adapter by our decoder, on the same records.

    `served` are the file's by llama.cpp, `reread` those by our decoder. It passes if its log-loss is no higher than
    reading explains, and `min_label_agreement` of the records with a clear margin get the adapter's label; one record
    may always differ.
    """
    adapter_NK, served_NK, reread_NK = (_shares(each) for each in (adapter, served, reread))
    noise = _noise(served_NK, reread_NK, truth, config.confidence_level)
    best_NK = np.sort(adapter_NK, axis=1)
    clear_N = best_NK[:, -1] - best_NK[:, -2] > noise.margin
    same = int((adapter_NK.argmax(1) == served_NK.argmax(1))[clear_N].sum())
    clear = int(clear_N.sum())
    loss = _loss_difference(served_NK, adapter_NK, truth, config.confidence_level)
    enough = same >= min(clear - 1, config.min_label_agreement * clear)
    return FileAgreement(
        labels=same / clear if clear else 1.0,
        probability_gap=float(_gaps(adapter_NK, served_NK).mean()),
        rows=len(adapter_NK),
        passed=enough and (loss.value or 0.0) <= noise.loss_limit and noise.mean <= MOST_NOISE,
        clear_rows=clear,
        log_loss=loss,
        log_loss_limit=noise.loss_limit,
        noise=noise,
    )


def _noise(first_NK: Floats, second_NK: Floats, truth: ValidationTruth, confidence: float) -> Noise:
    gap_N = _gaps(first_NK, second_NK)
    return Noise(
        mean=float(gap_N.mean()),
        p95=float(np.quantile(gap_N, 0.95)),
        p99=float(np.quantile(gap_N, 0.99)),
        labels=float((first_NK.argmax(1) != second_NK.argmax(1)).mean()),
        log_loss=_loss_difference(first_NK, second_NK, truth, confidence),
    )


def _loss_difference(first_NK: Floats, second_NK: Floats, truth: ValidationTruth, confidence: float) -> Estimate:
    """Mean log-loss of the first less that of the second, paired by record."""
    first_N, second_N = (log_loss(truth.labels, each.tolist()) for each in (first_NK, second_NK))
    return difference_clustered(first_N - second_N, truth.groups, confidence)


def _gaps(first_NK: Floats, second_NK: Floats) -> Floats:
    """Largest difference of a label's probability, for each record."""
    return np.abs(first_NK - second_NK).max(axis=1)


def _shares(rated: Sequence[Rated]) -> Floats:
    return np.array([each.probabilities for each in rated], dtype=np.float64)
